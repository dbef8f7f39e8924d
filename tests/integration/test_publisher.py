"""The publisher against a real gRPC server: what is submitted is answered once, over any number of streams."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from astara.event.v1 import event_pb2 as pb
from patience import until
from scripted_ingest import ScriptedIngest

from services.common import rpc
from services.common.clock import ManualClock
from services.common.publisher import MAX_BATCH, Publisher
from services.common.settings import GrpcSettings


def event(number: int, **more: object) -> pb.Event:
    return pb.Event(kind=pb.EVENT_KIND_UPDATE, subject=pb.Subject(resource_id=f"r{number}"), **more)


def seen(ingest: ScriptedIngest) -> list[str]:
    return [one.subject.resource_id for one in ingest.events]


class Answers(dict[int, str | None]):
    """Collects answers by the number that the test gave the event."""

    def of(self, number: int) -> Callable[[str | None], None]:
        def answered(reason: str | None) -> None:
            assert number not in self, "answered twice"
            self[number] = reason

        return answered


@pytest.fixture
async def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def publisher(ingest: ScriptedIngest, clock: ManualClock) -> AsyncIterator[Publisher]:
    async with rpc.open_channel(GrpcSettings(scheduler=ingest.address)) as channel:
        one = Publisher(channel, "test-1", clock)
        task = asyncio.create_task(one.run())
        yield one
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_every_event_is_sent_in_order_in_batches_and_answered(
    publisher: Publisher, ingest: ScriptedIngest
) -> None:
    answers = Answers()
    for number in range(3 * MAX_BATCH):
        publisher.submit(event(number), answers.of(number))
    await until(lambda: len(answers) == 3 * MAX_BATCH)
    assert seen(ingest) == [f"r{number}" for number in range(3 * MAX_BATCH)]
    assert set(answers.values()) == {None}
    assert max(ingest.batches) <= MAX_BATCH
    assert len(ingest.batches) < 10
    assert publisher.unanswered == 0


async def test_a_rejected_event_is_answered_with_its_reason_and_not_sent_again(
    publisher: Publisher, ingest: ScriptedIngest
) -> None:
    ingest.judge = lambda one: "kind: not set" if one.subject.resource_id == "r1" else None
    answers = Answers()
    for number in range(3):
        publisher.submit(event(number), answers.of(number))
    await until(lambda: len(answers) == 3)
    assert answers == {0: None, 1: "kind: not set", 2: None}
    assert len(ingest.events) == 3


async def test_never_more_than_the_credit_is_unanswered() -> None:
    ingest = ScriptedIngest(credit=7)
    ingest.answering.clear()
    await ingest.start()
    async with rpc.open_channel(GrpcSettings(scheduler=ingest.address)) as channel:
        publisher = Publisher(channel, "test-1", ManualClock())
        task = asyncio.create_task(publisher.run())
        answers = Answers()
        for number in range(100):
            publisher.submit(event(number), answers.of(number))
        await ingest.until(lambda: len(ingest.events) == 7)
        ingest.answering.set()
        await until(lambda: len(answers) == 100)
        assert ingest.most_unanswered <= 7
        task.cancel()
    await ingest.stop()


async def test_publish_waits_for_credit(ingest: ScriptedIngest, publisher: Publisher) -> None:
    ingest.credit = 3
    ingest.answering.clear()

    async def produce() -> None:
        for number in range(10):
            await publisher.publish(event(number))

    producing = asyncio.create_task(produce())
    await ingest.until(lambda: len(ingest.events) == 3)
    assert not producing.done()
    ingest.answering.set()
    await asyncio.wait_for(producing, 60)
    await ingest.until(lambda: len(ingest.events) == 10)


async def test_what_a_broken_stream_left_unanswered_goes_first_on_the_next(
    ingest: ScriptedIngest, publisher: Publisher
) -> None:
    ingest.answering.clear()
    answers = Answers()
    for number in range(5):
        publisher.submit(event(number), answers.of(number))
    await ingest.until(lambda: len(ingest.events) == 5)
    await ingest.stop()
    await until(lambda: not publisher.connected)
    for number in range(5, 8):
        publisher.submit(event(number), answers.of(number))
    assert not answers
    ingest.events.clear()
    ingest.answering.set()
    await ingest.start()
    await until(lambda: len(answers) == 8)
    assert seen(ingest) == [f"r{number}" for number in range(8)]


async def test_an_expired_poll_is_not_sent_again(
    ingest: ScriptedIngest, publisher: Publisher, clock: ManualClock
) -> None:
    await until(lambda: publisher.connected)
    await ingest.stop()
    await until(lambda: not publisher.connected)
    poll = event(1)
    poll.expires_at.FromSeconds(int(clock.wall()) + 60)
    answers = Answers()
    publisher.submit(poll, answers.of(1))
    publisher.submit(event(2), answers.of(2))
    clock.advance(61)
    await ingest.start()
    await until(lambda: len(answers) == 2)
    assert seen(ingest) == ["r2"]


async def test_a_wish_to_resync_survives_a_stream_that_may_not_have_carried_it(
    ingest: ScriptedIngest, publisher: Publisher
) -> None:
    publisher.request_resync()
    await ingest.until(lambda: ingest.resyncs == 1)
    await ingest.stop()
    await ingest.start()
    await ingest.until(lambda: ingest.resyncs == 2)
    publisher.submit(event(1))
    await ingest.until(lambda: len(ingest.events) == 1)
    await until(lambda: publisher.unanswered == 0)
    await ingest.stop()
    await ingest.start()
    await ingest.until(lambda: ingest.streams == 3)
    publisher.submit(event(2))
    await ingest.until(lambda: len(ingest.events) == 2)
    assert ingest.resyncs == 2
