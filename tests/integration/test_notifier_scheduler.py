"""From a real RabbitMQ through the notifier into the real scheduler: it keeps recordings and operators' commands."""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
from astara.scheduler.v1 import query_pb2
from astara.scheduler.v1.query_pb2_grpc import QueryServiceStub
from broker_traffic import Sender, corpus
from patience import until

from lab.ports import free_port
from lab.rabbitmq import RabbitNode

ROOT = Path(__file__).parents[2]
_numbers = itertools.count(1)


class System:
    """Scheduler and notifier as processes of their own."""

    def __init__(self, folder: Path, rabbitmq: RabbitNode) -> None:
        number = next(_numbers)
        self.neutron, self.queue = f"neutron-s{number}", f"astara.notifications-s{number}"
        self.dead, self.command = f"astara.dead-letter-s{number}", f"astara.command-s{number}"
        self.scheduler = f"127.0.0.1:{free_port()}"
        self._file = folder / "astara.ini"
        self._file.write_text(
            f"[grpc]\nscheduler = {self.scheduler}\n"
            f"[scheduler]\nlisten = {self.scheduler}\ndatabase = sqlite:///{folder}/scheduler.db\n"
            f"[notifier]\nbroker = {rabbitmq.url}\nlisten = 127.0.0.1:0\nqueue = {self.queue}\n"
            f"dead_letter_queue = {self.dead}\ntopics = {self.neutron}:notifications.info\ncasts =\n"
            f"commands = true\ncommand_exchange = {self.command}\ncommand_queue = {self.command}\n"
        )
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self, service: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"services.{service}", "--config-file", str(self._file), cwd=ROOT,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        self._processes.append(process)
        return process

    async def stop(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.terminate()
                await process.wait()


@pytest.fixture
async def system(tmp_path: Path, rabbitmq: RabbitNode) -> AsyncIterator[System]:
    one = System(tmp_path, rabbitmq)
    yield one
    await one.stop()


async def test_the_scheduler_keeps_all_recordings_over_a_crash_and_takes_commands(
    system: System, rabbitmq: RabbitNode
) -> None:
    sender = await asyncio.to_thread(Sender, rabbitmq.url)
    sender.declare(system.neutron)
    scheduler = await system.start("scheduler")
    await system.start("notifier")

    async def bound() -> bool:
        try:
            await asyncio.to_thread(sender.messages, system.command)
        except Exception:
            await asyncio.to_thread(sender.reopen)
            return False
        return True

    await until(bound)
    bodies = [one["body"].encode() for one in corpus("neutron-notifications.jsonl")]
    for index, body in enumerate(bodies):
        if index == len(bodies) // 2:
            scheduler.kill()
            await scheduler.wait()
        await asyncio.to_thread(sender.send, body, system.neutron)
    await asyncio.to_thread(
        sender.send, b'{"command": "tenant debug", "tenant_id": "t1", "reason": "test"}', system.command
    )
    await system.start("scheduler")

    async with grpc.aio.insecure_channel(system.scheduler) as channel:
        query = QueryServiceStub(channel)

        async def commanded() -> bool:
            try:
                answer = await query.ListOperations(query_pb2.ListOperationsRequest(), wait_for_ready=True)
            except grpc.aio.AioRpcError:
                return False
            return [one.reason for one in answer.operations] == ["test"]

        await until(commanded)

    async def drained() -> bool:
        return await asyncio.to_thread(sender.messages, system.queue) == 0

    await until(drained)
    assert sender.messages(system.dead) == 0
    sender.close()
