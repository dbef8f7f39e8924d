"""How a worker lets go of its shards when it is asked to stop."""

import asyncio
import math

from astara.scheduler.v1 import work_pb2 as work

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


class Idle:
    """Machines that have nothing to do."""

    async def run(self, resource: ManagedResource) -> RunResult:
        return RunResult(Outcome.DONE)


async def test_without_a_scheduler_shards_are_handed_back_by_the_end_of_the_lease() -> None:
    clock, flags = SystemClock(), DebugFlags()
    ownership = Ownership(clock)
    ownership.welcome(50, clock.lease())
    ownership.grant(work.HeldShard(shard=7, term=1, counter=1))
    reporter = Reporter("worker", flags, clock)
    dispatcher = Dispatcher(Idle(), flags, clock, 1, reporter.forgotten)
    # The discard port: nobody answers.
    channel = open_channel(GrpcSettings(scheduler="127.0.0.1:9"))
    identity = Identity("worker", "incarnation", "test", "127.0.0.1:0", 0)
    link = Link(channel, identity, ownership, dispatcher, flags, reporter, clock, 1.0, lambda _up: None)
    running = asyncio.create_task(link.run())
    await link.drain(math.inf)
    assert ownership.lease_remaining() <= 0.0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await channel.close()
