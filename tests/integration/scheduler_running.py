"""A real scheduler process on a database of its own, and a worker and a producer that tests drive by hand."""

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

import grpc.aio
from astara.event.v1 import event_pb2
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import (
    ingest_pb2,
    ingest_pb2_grpc,
    operate_pb2_grpc,
    presence_pb2,
    presence_pb2_grpc,
    query_pb2,
    query_pb2_grpc,
    work_pb2,
    work_pb2_grpc,
)
from patience import until

from lab.ports import free_port
from services.common import rpc
from services.common.metrics import MetricsSettings
from services.common.settings import CommonSettings, GrpcSettings, load
from services.scheduler.__main__ import main
from services.scheduler.settings import SchedulerSettings

ROOT = Path(__file__).parents[2]
LEASE = 2.0
"""Seconds; long enough for a machine that has much else to do to renew in time."""


def write_config(
    folder: Path, address: str, options: dict[str, object], host: str = "test", scheduler: str = ""
) -> Path:
    lines = {"listen": address, "database": f"sqlite:///{folder}/scheduler.db", "lease_seconds": LEASE}
    lines |= {"leader_lease_seconds": 2.0, "inventory": "optional", **options}
    config = folder / f"scheduler-{host}.conf"
    text = f"[DEFAULT]\nhost = {host}\n[grpc]\nscheduler = {scheduler or address}\n"
    text += "[scheduler]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())
    config.write_text(text)
    return config


class SchedulerHere:
    """The scheduler in the test's own loop: everything real but the process."""

    def __init__(self, folder: Path, host: str = "test", scheduler: str = "", **options: object) -> None:
        """`scheduler` is where it finds the one that leads; itself, when that is empty."""
        self.address = f"127.0.0.1:{free_port()}"
        config = write_config(folder, self.address, options, host, scheduler)
        classes = (CommonSettings, SchedulerSettings, GrpcSettings, MetricsSettings)
        self.settings = load("astara-scheduler", ["--config-file", str(config)], classes)
        self.stop = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.stop.clear()
        self.task = asyncio.create_task(main(self.settings, self.stop))

    async def end(self) -> None:
        self.stop.set()
        if self.task is not None:
            await self.task
            self.task = None


class SchedulerProcess:
    """Start, kill and start again: the same address and database."""

    def __init__(self, folder: Path, host: str = "test", **options: object) -> None:
        folder.mkdir(exist_ok=True)
        self.address = f"127.0.0.1:{free_port()}"
        self.folder = folder
        self.config = write_config(folder, self.address, options, host)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self.folder / "scheduler.log").open("ab")
        command = [sys.executable, "-m", "services.scheduler", "--config-file", str(self.config)]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/gen"}
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=log, env=environment)
        log.close()

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process = None
        return code

    def close(self) -> None:
        if self.process is not None:
            self.end(signal.SIGKILL)


class Client:
    """All stubs on one channel; calls wait until the scheduler leads; `ipv4:A,B`: whichever does."""

    def __init__(self, address: str) -> None:
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
        options.append(("grpc.min_reconnect_backoff_ms", 50))
        if address.startswith("ipv4:"):
            options += rpc._FIND_LEADER
        self.channel = grpc.aio.insecure_channel(address, options=options)
        self.ingest = ingest_pb2_grpc.IngestServiceStub(self.channel)
        self.work = work_pb2_grpc.WorkServiceStub(self.channel)
        self.operate = operate_pb2_grpc.OperateServiceStub(self.channel)
        self.presence = presence_pb2_grpc.PresenceServiceStub(self.channel)
        self.query = query_pb2_grpc.QueryServiceStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def leading(self) -> None:
        async def reached() -> bool:
            with suppress(grpc.aio.AioRpcError):
                await self.query.ListDebugFlags(query_pb2.ListDebugFlagsRequest(), wait_for_ready=True)
                return True
            return False

        await until(reached)

    async def resource(self, resource_id: str) -> resource_pb2.Resource:
        return (await self.query.GetResource(query_pb2.GetResourceRequest(resource_id=resource_id))).resource

    async def services(self) -> dict[str, presence_pb2.ServiceInfo]:
        """By service and host."""
        answer = await self.presence.ListServices(presence_pb2.ListServicesRequest(), wait_for_ready=True)
        return {f"{one.service} {one.host}": one for one in answer.services}

    async def shards(self) -> list[query_pb2.ShardOwner]:
        return list((await self.query.GetShardMap(query_pb2.GetShardMapRequest())).shards)

    async def until_shards(self, condition) -> list[query_pb2.ShardOwner]:
        async def reached() -> bool:
            return condition(await self.shards())

        await until(reached)
        return await self.shards()


async def write(call, outgoing: asyncio.Queue) -> None:
    """Write what is put into a queue, until the call ends.

    Not by an iterator of requests: whatever ends that one cancels the call, and the task that reads from it, unseen.
    """
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while True:
            await call.write(await outgoing.get())


class HandWorker:
    """A worker that renews by itself and notes everything; acks and releases are switched by the test."""

    def __init__(self, client: Client, name: str = "worker-1", incarnation: str = "") -> None:
        self.client = client
        self.name = name
        self.incarnation = incarnation or str(uuid.uuid4())
        self.held: dict[int, work_pb2.HeldShard] = {}
        self.hints: dict[str, list[work_pb2.Hint]] = {}
        self.known: dict[str, work_pb2.KnownResource] = {}
        self.flags: list[work_pb2.FlagChange] = []
        self.welcome: work_pb2.Welcome | None = None
        self.ended: grpc.StatusCode | None = None
        self.acking = self.renewing = self.releasing = True
        self.unacked: list[int] = []
        self.changed = asyncio.Condition()
        self.outgoing: asyncio.Queue[work_pb2.WorkRequest] = asyncio.Queue()
        self.tasks: list[asyncio.Task[None]] = []
        self.call = None

    def send(self, **message: object) -> None:
        self.outgoing.put_nowait(work_pb2.WorkRequest(**message))

    async def connect(self) -> "HandWorker":
        self.outgoing, self.welcome, self.ended = asyncio.Queue(), None, None
        self.send(
            hello=work_pb2.Hello(worker=self.name, incarnation=self.incarnation, version="t", held=self.held.values())
        )
        self.tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._renew())]
        await self.until(lambda: self.welcome is not None or self.ended is not None)
        return self

    async def disconnect(self) -> None:
        for task in self.tasks:
            task.cancel()
        if self.call is not None:
            self.call.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def until(self, condition) -> None:
        """Wait for it. AssertionError when the stream ends before."""
        async with self.changed:
            await self.changed.wait_for(lambda: condition() or self.ended is not None)
            assert condition(), f"the stream ended with {self.ended}"

    def ack_all(self) -> None:
        for number in self.unacked:
            self.send(ack=work_pb2.DeliveryAck(number=number))
        self.unacked.clear()

    def report(self, resource_id: str, tenant_id: str, **facts: object) -> None:
        facts.setdefault("state", resource_pb2.INSTANCE_STATE_CONFIGURED)
        resource = resource_pb2.Resource(resource_id=resource_id, tenant_id=tenant_id, **facts)
        self.send(status=work_pb2.StatusReport(resources=[resource]))

    async def _renew(self) -> None:
        nonce = 0
        while True:
            nonce += 1
            # Before Welcome nothing but Hello is written: a stream that ends under a write loses its status.
            if self.renewing and self.welcome is not None:
                self.send(lease_renewal=work_pb2.LeaseRenewal(nonce=nonce))
            await asyncio.sleep(LEASE / 3)

    async def _run(self) -> None:
        self.call = call = self.client.work.Work(wait_for_ready=True)
        writer = asyncio.create_task(write(call, self.outgoing))
        try:
            async for message in call:
                async with self.changed:
                    self._take(message)
                    self.changed.notify_all()
            code = await call.code()
        except grpc.aio.AioRpcError as error:
            code = error.code()
        finally:
            writer.cancel()
        async with self.changed:
            self.ended = code
            self.changed.notify_all()

    def _take(self, message: work_pb2.WorkResponse) -> None:
        match message.WhichOneof("message"):
            case "welcome":
                self.welcome = message.welcome
                self.held = {held.shard: held for held in message.welcome.kept}
            case "grant":
                self.held |= {held.shard: held for held in message.grant.shards}
                self.known |= {known.resource_id: known for known in message.grant.resources}
            case "revoke":
                if self.releasing:
                    for held in message.revoke.shards:
                        self.held.pop(held.shard, None)
                    self.send(released=work_pb2.Released(shards=message.revoke.shards))
            case "deliver":
                for hint in message.deliver.hints:
                    self.hints.setdefault(hint.resource_id, []).append(hint)
                if self.acking:
                    self.send(ack=work_pb2.DeliveryAck(number=message.deliver.number))
                else:
                    self.unacked.append(message.deliver.number)
            case "flag_change":
                self.flags.append(message.flag_change)


class HandProducer:
    """A Publish stream whose acks are collected."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.next_number = 1
        self.credit = 0
        self.acked: set[int] = set()
        self.rejected: dict[int, str] = {}
        self.changed = asyncio.Condition()
        self.outgoing: asyncio.Queue[ingest_pb2.PublishRequest] = asyncio.Queue()
        self.ended = False

    async def connect(self) -> "HandProducer":
        self.task = asyncio.create_task(self._run())
        await self.until(lambda: self.credit > 0 or self.ended)
        return self

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def publish(self, events: Iterable[event_pb2.Event], *, resync: bool = False) -> list[int]:
        batch = list(events)
        request = ingest_pb2.PublishRequest(producer="test", first_number=self.next_number, events=batch, resync=resync)
        numbers = list(range(self.next_number, self.next_number + len(batch)))
        self.next_number += len(batch)
        self.outgoing.put_nowait(request)
        return numbers

    async def answered(self, numbers: list[int]) -> None:
        await self.until(lambda: all(number in self.acked or number in self.rejected for number in numbers))

    async def until(self, condition) -> None:
        async with self.changed:
            await self.changed.wait_for(condition)

    async def _run(self) -> None:
        call = self.client.ingest.Publish(wait_for_ready=True)
        writer = asyncio.create_task(write(call, self.outgoing))
        try:
            async for response in call:
                async with self.changed:
                    self.credit = response.credit or self.credit
                    self.acked |= set(response.acked)
                    self.rejected |= {rejection.number: rejection.reason for rejection in response.rejected}
                    self.changed.notify_all()
        except grpc.aio.AioRpcError:
            pass
        finally:
            writer.cancel()
        async with self.changed:
            self.ended = True
            self.changed.notify_all()


def event(kind: str, resource_id: str = "", project_id: str = "", **facts: object) -> event_pb2.Event:
    """An event of a kind about a resource; facts starting a subject's field go there."""
    subject = {key: facts.pop(key) for key in list(facts) if key in event_pb2.Subject.DESCRIPTOR.fields_by_name}
    return event_pb2.Event(
        kind=event_pb2.EventKind.Value(f"EVENT_KIND_{kind}"),
        subject=event_pb2.Subject(resource_id=resource_id, project_id=project_id, **subject),
        priority=facts.pop("priority", event_pb2.PRIORITY_USER),
        **facts,
    )
