"""A shard that is let go of and granted again at once: nothing that belongs to the new grant is lost with the old."""

import asyncio

from astara.scheduler.v1 import work_pb2 as work

from services.common import marks
from services.common.clock import ManualClock
from services.worker.dispatch import Dispatcher
from services.worker.flags import DebugFlags
from services.worker.inbox import BITS
from services.worker.machine import Outcome, RunResult
from services.worker.resource import ManagedResource
from services.worker.states import Action


class SlowRunner:
    """Runs end when the test lets them."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.go_on = asyncio.Event()

    async def run(self, resource: ManagedResource) -> RunResult:
        self.ran.append(resource.resource_id)
        await self.go_on.wait()
        resource.inbox.take()
        return RunResult(Outcome.DONE)


def hint(resource_id: str, action: Action) -> work.Hint:
    return work.Hint(resource_id=resource_id, tenant_id="tenant", actions=BITS[action], priority=4)


async def test_a_hint_of_the_next_grant_outlives_the_closing_of_the_shard() -> None:
    runner = SlowRunner()
    dispatcher = Dispatcher(runner, DebugFlags(), ManualClock(), 4, lambda _resource: None)
    dispatcher.deliver(hint("old", Action.UPDATE))
    await asyncio.sleep(0)
    closing = asyncio.create_task(dispatcher.close_shard(marks.shard_of("tenant")))
    await asyncio.sleep(0)
    dispatcher.deliver(hint("new", Action.CREATE))
    dispatcher.deliver(hint("old", Action.UPDATE))
    assert runner.ran == ["old"], "nothing of a closing shard begins"
    runner.go_on.set()
    await closing
    await dispatcher.closed([marks.shard_of("tenant")])
    while len(runner.ran) < 3:  # noqa: ASYNC110 - turns of the loop, not time
        await asyncio.sleep(0)
    assert sorted(runner.ran) == ["new", "old", "old"]
