"""From a real RabbitMQ through notifier and scheduler into a worker's inboxes: what recordings make of each router."""

import asyncio
import contextlib
import json
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from broker_traffic import Sender, corpus
from patience import until
from test_notifier_scheduler import System

from lab.rabbitmq import RabbitNode
from services.common.clock import SystemClock
from services.common.rpc import open_channel
from services.common.settings import GrpcSettings
from services.worker.dispatch import Dispatcher
from services.worker.flags import DebugFlags
from services.worker.link import Identity, Link
from services.worker.machine import Outcome, RunResult
from services.worker.ownership import Ownership
from services.worker.report import Reporter
from services.worker.resource import ManagedResource
from services.worker.states import Action


class RecordingWorker:
    """The worker's real stream, inboxes and dispatcher; its machines write down what they were asked for."""

    def __init__(self, scheduler: str) -> None:
        clock, flags = SystemClock(), DebugFlags()
        self.asked: dict[str, set[Action]] = defaultdict(set)
        self.revision: dict[str, int] = defaultdict(int)
        self.ownership = Ownership(clock)
        reporter = Reporter("recorder", flags, clock)
        self._channel = open_channel(GrpcSettings(scheduler=scheduler))
        dispatcher = Dispatcher(self, flags, clock, 64, reporter.forgotten)
        identity = Identity("recorder", str(uuid.uuid4()), "test", "127.0.0.1:0", 0)
        self._link = Link(
            self._channel, identity, self.ownership, dispatcher, flags, reporter, clock, 0.05, lambda _up: None
        )

    async def run(self, resource: ManagedResource) -> RunResult:
        taken = resource.inbox.take()
        self.asked[resource.resource_id] |= taken.wanted()
        self.revision[resource.resource_id] = max(self.revision[resource.resource_id], taken.revision)
        return RunResult(Outcome.DONE)

    async def work(self) -> None:
        try:
            await self._link.run()
        finally:
            await self._channel.close()


@pytest.fixture
async def system(tmp_path: Path, rabbitmq: RabbitNode) -> AsyncIterator[System]:
    one = System(tmp_path, rabbitmq)
    yield one
    await one.stop()


def expected() -> tuple[dict[str, set[Action]], dict[str, int]]:
    """Read off the recordings by hand, without our table: what must reach each router's owner."""
    wanted: dict[str, set[Action]] = defaultdict(set)
    revision: dict[str, int] = defaultdict(int)
    lifecycle = {
        "router.create.end": Action.CREATE,
        "router.update.end": Action.UPDATE,
        "router.delete.end": Action.DELETE,
    }
    for recorded in corpus("neutron-notifications.jsonl"):
        message = json.loads(json.loads(recorded["body"])["oslo.message"])
        kind, payload = message["event_type"], message["payload"]
        if kind in lifecycle:
            router = payload["router"]
            wanted[router["id"]].add(lifecycle[kind])
            revision[router["id"]] = max(revision[router["id"]], router["revision_number"])
        elif kind.startswith("router.interface."):
            wanted[payload["router_interface"]["id"]].add(Action.UPDATE)
        elif kind.startswith("floatingip.") and kind.endswith(".end") and payload["floatingip"]["router_id"]:
            wanted[payload["floatingip"]["router_id"]].add(Action.UPDATE)
    return wanted, revision


async def test_every_recorded_change_of_a_router_reaches_its_owner_though_the_broker_restarts(
    system: System, rabbitmq: RabbitNode
) -> None:
    sender = await asyncio.to_thread(Sender, rabbitmq.url)
    sender.declare(system.neutron)
    await system.start("scheduler")
    await system.start("notifier")
    worker = RecordingWorker(system.scheduler)
    working = asyncio.create_task(worker.work())
    await until(lambda: len(worker.ownership.shards) == 1024)
    await until(lambda: _consumed(sender, system.queue))
    bodies = [one["body"].encode() for one in corpus("neutron-notifications.jsonl")]
    half = len(bodies) // 2
    for body in bodies[:half]:
        await asyncio.to_thread(sender.send, body, system.neutron)

    # What the queue holds survives; the exchange, which is not durable, comes back with its first user.
    await asyncio.to_thread(sender.close)
    await asyncio.to_thread(rabbitmq.stop)
    await asyncio.to_thread(rabbitmq.start)
    sender = await asyncio.to_thread(Sender, rabbitmq.url)
    await until(lambda: _consumed(sender, system.queue))
    for body in bodies[half:]:
        await asyncio.to_thread(sender.send, body, system.neutron)

    wanted, revision = expected()
    await until(lambda: all(actions <= worker.asked[router] for router, actions in wanted.items()))
    assert set(worker.asked) == set(wanted)
    assert {router: worker.revision[router] for router in revision} == dict(revision)
    await until(lambda: _empty(sender, system.queue))
    sender.close()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
        await working


async def _consumed(sender: Sender, queue: str) -> bool:
    """Whether the notifier listens to its queue."""
    try:
        declared = await asyncio.to_thread(sender.channel.queue_declare, queue, passive=True)
    except Exception:  # the queue is not there yet, and the broker closed the channel
        await asyncio.to_thread(sender.reopen)
        return False
    return bool(declared.consumer_count)


async def _empty(sender: Sender, queue: str) -> bool:
    return await asyncio.to_thread(sender.messages, queue) == 0
