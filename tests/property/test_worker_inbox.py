"""Any order and any duplication of the same hints ends in the same wanted work."""

from astara.resource.v1 import resource_pb2 as pb
from astara.scheduler.v1 import work_pb2 as work
from hypothesis import given
from hypothesis import strategies as st

from services.worker.inbox import Inbox

KINDS = [pb.OPERATION_KIND_POLL, pb.OPERATION_KIND_UPDATE, pb.OPERATION_KIND_REBUILD]


def _operation(number: int) -> pb.Operation:
    """An operation's id says what it is: the scheduler never gives one id two meanings."""
    operation = pb.Operation(operation_id=f"op-{number}", kind=KINDS[number % 3], image_id=f"image-{number}")
    operation.created_at.FromSeconds(number // 2)
    return operation


hints = st.builds(
    lambda actions, revision, priority, expires, operations, causes: work.Hint(
        actions=actions, revision=revision, priority=priority, expires_at_ms=expires,
        operations=[_operation(number) for number in operations], request_ids=[f"req-{n}" for n in causes],
    ),
    st.integers(0, 63),
    st.integers(0, 100),
    st.integers(0, 4),
    st.integers(0, 5000),
    st.lists(st.integers(0, 6), max_size=3),
    st.lists(st.integers(0, 30), max_size=8),
)  # fmt: skip


def filled(given_hints: list[work.Hint]) -> Inbox:
    inbox = Inbox()
    for hint in given_hints:
        inbox.merge_hint(hint)
    return inbox


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[work.Hint], list[work.Hint]]:
    """Some hints, and the same in another order, some of them more than once."""
    some = draw(st.lists(hints, max_size=8))
    again = draw(st.lists(st.sampled_from(some), max_size=8)) if some else []
    return some, draw(st.permutations([*some, *again]))


@given(deliveries(), st.integers(0, 6000))
def test_order_and_duplication_do_not_matter(both: tuple[list[work.Hint], list[work.Hint]], now_ms: int) -> None:
    first, second = filled(both[0]), filled(both[1])
    assert first == second
    assert first.action() == second.action()
    assert first.expired(now_ms) == second.expired(now_ms)
    assert [one.operation_id for one in first.rebuilds()] == [one.operation_id for one in second.rebuilds()]


@given(st.lists(hints, max_size=6), st.lists(hints, max_size=6))
def test_work_that_was_taken_out_and_put_back_is_what_it_was(before: list[work.Hint], during: list[work.Hint]) -> None:
    """A run that ends early gives back what it took, whatever came in meanwhile."""
    inbox = filled(before)
    hand = inbox.take()
    assert not inbox
    for hint in during:
        inbox.merge_hint(hint)
    inbox.merge(hand)
    assert inbox == filled([*before, *during])


@given(st.lists(hints, max_size=8))
def test_an_inbox_never_wants_less_for_more_hints(some: list[work.Hint]) -> None:
    inbox = Inbox()
    for hint in some:
        before = inbox.wanted()
        inbox.merge_hint(hint)
        assert before <= inbox.wanted()
        assert inbox.priority >= hint.priority
        assert inbox.revision >= hint.revision
        assert {one.operation_id for one in hint.operations} <= set(inbox.operations)


@given(st.lists(hints, min_size=1, max_size=6))
def test_merging_inboxes_commutes_and_associates(some: list[work.Hint]) -> None:
    parts = [filled([hint]) for hint in some]
    forwards, backwards, pairwise = Inbox(), Inbox(), Inbox()
    for part in parts:
        forwards.merge(part)
    for part in reversed(parts):
        backwards.merge(part)
    half = len(parts) // 2
    left, right = filled(some[:half]), filled(some[half:])
    pairwise.merge(right)
    pairwise.merge(left)
    assert forwards == backwards == pairwise
