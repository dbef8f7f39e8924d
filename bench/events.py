"""Events from the scheduler to state machines: a producer, a scheduler and two workers share the machine.

The producer publishes 200,000 events for 10,000 routers in batches through the Publish stream. The clock stops when
the scheduler has acked all of them, which it does when they are in the workers' inboxes, and no machine has work left.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import grpc.aio
import uvloop
from astara.event.v1 import event_pb2 as event

from bench.measure import Figure
from bench.stack import Stack, router_event
from lab.ports import free_port
from services.common.clock import SystemClock
from services.common.publisher import Publisher
from services.common.rpc import open_channel
from services.common.settings import GrpcSettings

EVENTS, ROUTERS, WORKERS = 200_000, 10_000, 2


async def start_scheduler(stack: Stack) -> None:
    """Start the scheduler alone; its view is complete without health."""
    (stack.folder / "scheduler.ini").write_text(
        f"[DEFAULT]\nlog_level = warning\n[scheduler]\nlisten = 127.0.0.1:{stack.scheduler_port}\n"
        f"database = sqlite:///{stack.folder}/scheduler.db\ninventory = optional\n"
    )
    await stack.start("services.scheduler", "--config-file", str(stack.folder / "scheduler.ini"), log="scheduler")
    stack.channel = open_channel(GrpcSettings(scheduler=f"127.0.0.1:{stack.scheduler_port}"))


async def until_owned(stack: Stack, seconds: float = 40.0) -> None:
    """Wait until workers own all shards."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if await stack.shards_owned() == 1024:
                return
        except grpc.aio.AioRpcError:
            pass
        await asyncio.sleep(0.1)
    raise TimeoutError("nobody owns the shards")


async def _rate() -> float:
    with tempfile.TemporaryDirectory(prefix="astara-bench-") as folder:
        stack = Stack(Path(folder), free_port(), 0)
        workers = []
        try:
            await start_scheduler(stack)
            for number in range(WORKERS):
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "bench.counting", str(stack.scheduler_port), f"worker-{number}",
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
                stack.processes.append(process)
                workers.append(process)
            await until_owned(stack)
            events = [
                router_event(event.EVENT_KIND_UPDATE, f"{n:08x}-0000-4000-8000-000000000000", f"{n % 2500:032x}")
                for n in range(ROUTERS)
            ]
            publisher = Publisher(stack.channel, "bench", SystemClock())
            publishing = asyncio.create_task(publisher.run())
            while not publisher.connected:
                await asyncio.sleep(0.05)
            started = time.monotonic()
            for number in range(EVENTS):
                await publisher.publish(events[number % ROUTERS])
            while publisher.unanswered or not await _idle(workers):
                await asyncio.sleep(0.01)
            took = time.monotonic() - started
            publishing.cancel()
            await stack.channel.close()
            return EVENTS / took
        finally:
            await stack.stop()


async def _idle(workers: list[asyncio.subprocess.Process]) -> bool:
    ready = 0
    for worker in workers:
        if worker.stdin is None or worker.stdout is None:
            raise RuntimeError("a worker has no pipes")
        worker.stdin.write(b"\n")
        ready += int((await worker.stdout.readline()).split()[2])
    return ready == 0


def main() -> None:
    """Five runs."""
    values = [uvloop.run(_rate()) for _ in range(5)]
    Figure(
        "events_scheduler_to_machine", "events/s", values, ">= 20000", 1, f"{EVENTS} events, {ROUTERS} routers"
    ).write()


if __name__ == "__main__":
    main()
