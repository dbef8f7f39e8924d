"""The feed's thread: one a process, started by the first change, never in the way of who puts something in."""

import os
import queue
import threading
from collections.abc import Iterator
from unittest import mock

import pytest
from astara_neutron import feed as feed_module
from astara_neutron.changes import Touched
from astara_neutron.feed import Feed

_LIMIT = 30.0  # seconds


def touched(number: int) -> Touched:
    return Touched("router", f"r{number}")


class Sent:
    """Stands for the database and the broker."""

    def __init__(self) -> None:
        self.batches: queue.Queue[list[Touched]] = queue.Queue()
        self.errors: list[Exception] = []
        self.may_send = threading.Event()
        self.may_send.set()
        self.busy = threading.Event()

    def __call__(self, batch: list[Touched]) -> None:
        self.busy.set()
        assert self.may_send.wait(_LIMIT)
        if self.errors:
            raise self.errors.pop()
        self.batches.put(batch)

    def told(self, count: int) -> list[Touched]:
        found: list[Touched] = []
        while len(found) < count:
            found += self.batches.get(timeout=_LIMIT)
        return found


@pytest.fixture
def sent() -> Iterator[Sent]:
    one = Sent()
    with mock.patch.object(feed_module, "_PAUSE", 0.01):
        yield one
    one.may_send.set()


@pytest.fixture
def feed(sent: Sent) -> Feed:
    made = Feed()
    made._send = sent  # type: ignore[method-assign]
    return made


def test_no_thread_runs_before_the_first_change_and_one_after(feed: Feed, sent: Sent) -> None:
    before = threading.active_count()
    feed.put([touched(1)])
    feed.put([touched(2), touched(3)])
    assert sorted(one.object_id for one in sent.told(3)) == ["r1", "r2", "r3"]
    assert threading.active_count() == before + 1


def test_what_comes_together_is_told_together_and_once(feed: Feed, sent: Sent) -> None:
    sent.may_send.clear()
    feed.put([touched(0)])
    assert sent.busy.wait(_LIMIT)
    for _ in range(3):
        feed.put([touched(1), touched(2)])
    sent.may_send.set()
    assert sent.batches.get(timeout=_LIMIT) == [touched(0)]
    assert sent.batches.get(timeout=_LIMIT) == [touched(1), touched(2)]


def test_a_failure_costs_what_it_would_have_told_and_no_more(feed: Feed, sent: Sent) -> None:
    sent.errors.append(OSError("no broker"))
    sent.may_send.clear()
    feed.put([touched(1)])
    assert sent.busy.wait(_LIMIT)
    sent.may_send.set()
    while sent.errors:
        threading.Event().wait(0.01)
    feed.put([touched(2)])
    assert sent.told(1) == [touched(2)]


def test_a_broker_that_hangs_holds_up_nobody_and_the_oldest_is_lost(feed: Feed, sent: Sent) -> None:
    warnings: list[str] = []
    sent.may_send.clear()
    feed.put([touched(-1)])
    assert sent.busy.wait(_LIMIT)
    with (
        mock.patch.object(feed_module.LOG, "warning", warnings.append),
        mock.patch.object(feed_module, "_MOST_QUEUED", feed_module._MOST_QUEUED),
    ):
        for number in range(feed_module._MOST_QUEUED + 50):
            feed.put([touched(number)])
    assert len(warnings) == 1
    sent.may_send.set()
    found = sent.told(feed_module._MOST_QUEUED + 1)
    assert found[0] == touched(-1)
    assert touched(49) not in found
    assert found[1] == touched(50)
    assert found[-1] == touched(feed_module._MOST_QUEUED + 49)


def test_a_process_that_forks_after_the_first_change_has_a_thread_of_its_own(feed: Feed, sent: Sent) -> None:
    feed.put([touched(1)])
    assert sent.told(1) == [touched(1)]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            feed.put([touched(2)])
            status = 0 if sent.told(1) == [touched(2)] else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_process_that_cannot_start_a_thread_goes_on(feed: Feed) -> None:
    with mock.patch("threading.Thread.start", side_effect=RuntimeError("can't start new thread")):
        feed.put([touched(1)])
    assert feed.queued() == 1
