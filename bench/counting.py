"""A worker whose machines do nothing but note when they start: the real Link, inboxes and dispatcher.

In a bench's own process it times single events. `python -m bench.counting SCHEDULER_PORT NAME` is a worker process that
writes how many runs it has seen to standard output whenever a line comes in.
"""

import asyncio
import sys
import time
import uuid
from typing import Any

import uvloop

from services.common import logging
from services.common.clock import SystemClock
from services.common.rpc import open_channel
from services.common.settings import CommonSettings, GrpcSettings
from services.worker.dispatch import Dispatcher
from services.worker.flags import DebugFlags
from services.worker.link import Identity, Link
from services.worker.machine import Outcome, RunResult
from services.worker.ownership import Ownership
from services.worker.report import Reporter
from services.worker.resource import ManagedResource
from services.worker.states import InstanceState


class CountingWorker:
    """Counts runs; `started` maps a resource to when its latest run began (monotonic seconds)."""

    def __init__(self, scheduler_port: int, name: str) -> None:
        clock = SystemClock()
        self.runs = 0
        self.started: dict[str, float] = {}
        flags = DebugFlags()
        self.ownership = Ownership(clock)
        self.reporter = Reporter(name, flags, clock)
        self.dispatcher = Dispatcher(self, flags, clock, 256, self.reporter.forgotten)
        self._channel = open_channel(GrpcSettings(scheduler=f"127.0.0.1:{scheduler_port}"))
        identity = Identity(name, str(uuid.uuid4()), "bench", "127.0.0.1:0", 0)
        self._link = Link(
            self._channel, identity, self.ownership, self.dispatcher, flags, self.reporter, clock, 0.05,
            lambda _up: None,
        )  # fmt: skip

    async def run(self, resource: ManagedResource) -> RunResult:
        """What stands for the state machine."""
        self.started[resource.resource_id] = time.monotonic()
        self.runs += 1
        resource.inbox.take()
        if resource.state is not InstanceState.CONFIGURED:
            resource.state = InstanceState.CONFIGURED
            self.reporter.changed(resource)
        return RunResult(Outcome.DONE)

    async def work(self) -> None:
        """Serve until cancelled."""
        try:
            await self._link.run()
        finally:
            await self._channel.close()


async def _serve(port: int, name: str) -> None:
    worker = CountingWorker(port, name)
    working = asyncio.create_task(worker.work())
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        idle: Any = worker.dispatcher.diagnosis()
        print(worker.runs, len(worker.ownership.shards), idle["ready"], flush=True)
    working.cancel()


if __name__ == "__main__":
    logging.setup("worker", CommonSettings(log_level="warning"))
    uvloop.run(_serve(int(sys.argv[1]), sys.argv[2]))
