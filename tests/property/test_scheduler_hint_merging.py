"""Merging hints: any order and any repetition of the same events ends in the same hint."""

from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import work_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.hints import covers, merge

HINTS = st.builds(
    lambda actions, revision, priority, expiry, operations: work_pb2.Hint(
        resource_id="r",
        tenant_id="t",
        actions=actions,
        revision=revision,
        priority=priority,
        expires_at_ms=expiry,
        operations=[resource_pb2.Operation(operation_id=name) for name in operations],
    ),
    st.integers(0, 63),
    st.integers(0, 9),
    st.integers(0, 4),
    st.sampled_from([0, 10, 20]),
    st.sets(st.sampled_from("xyz")),
)


def merged(hints: list[work_pb2.Hint]) -> tuple[object, ...]:
    result = work_pb2.Hint()
    result.CopyFrom(hints[0])
    for hint in hints[1:]:
        merge(result, hint)
    names = frozenset(operation.operation_id for operation in result.operations)
    return result.actions, result.revision, result.priority, result.expires_at_ms, names


@given(st.lists(HINTS, min_size=1, max_size=6), st.randoms())
def test_order_and_repetition_do_not_matter(hints: list[work_pb2.Hint], chance) -> None:
    shuffled = [*hints, *chance.choices(hints, k=3)]
    chance.shuffle(shuffled)
    assert merged(hints) == merged(shuffled)


@given(HINTS, HINTS)
def test_what_is_covered_changes_nothing(one: work_pb2.Hint, two: work_pb2.Hint) -> None:
    assert covers(one, two) == (merged([one]) == merged([one, two]))
