"""What the Work stream demands of any worker, checked against worker processes that know only work.proto.

Every test runs against each implementation in IMPLEMENTATIONS: the example of docs/ and ours, each started as a process
of its own; first against a scripted scheduler that says what the test wants, then against the real one.
"""

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from astara.event.v1 import event_pb2
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import (
    ingest_pb2,
    ingest_pb2_grpc,
    operate_pb2,
    operate_pb2_grpc,
    query_pb2,
    query_pb2_grpc,
    work_pb2,
    work_pb2_grpc,
)

from lab.cloud import AppliancesInProcess, CloudOptions, SimulatedCloud
from lab.cloud.server import MANAGEMENT_NETWORK
from lab.ports import free_port
from services.common.marks import shard_of
from services.common.metrics import MetricsSettings
from services.common.settings import CommonSettings, GrpcSettings, load
from services.scheduler.__main__ import main as scheduler_main
from services.scheduler.settings import SchedulerSettings

ROOT = Path(__file__).parents[2]
LEASE_MS = 900
UPDATE = 1 << (event_pb2.EVENT_KIND_UPDATE - 1)
TENANT = "0c1dbd0e4f2d4c7a9b0a6f1f0e7d5a11"


class Implementation:
    """How to start one kind of worker."""

    name: str

    async def command(self, scheduler: str, folder: Path) -> Sequence[str]:
        """The command of a worker called worker-1 that dials `scheduler`."""
        raise NotImplementedError

    async def router(self) -> tuple[str, str]:
        """A router that the worker can work on, and its tenant."""
        return str(uuid.uuid4()), TENANT

    async def close(self) -> None:
        """Take down what `command` set up."""


class Example(Implementation):
    """docs/examples/example_worker.py."""

    name = "example"

    async def command(self, scheduler: str, folder: Path) -> Sequence[str]:
        return sys.executable, str(ROOT / "docs/examples/example_worker.py"), scheduler, "worker-1"


class Ours(Implementation):
    """services.worker, against the simulated cloud."""

    name = "astara"

    async def command(self, scheduler: str, folder: Path) -> Sequence[str]:
        from astara_appliance.host import ApplianceHost

        self.host = ApplianceHost()
        self.hypervisor = AppliancesInProcess(self.host)
        self.cloud = SimulatedCloud(CloudOptions(management_cidr="127.64.0.0/16"), self.hypervisor)
        await self.cloud.start()
        self.cloud.seed()
        networks = self.cloud.network.networks.table
        network = next(row["id"] for row in networks if row["name"] == MANAGEMENT_NETWORK)
        image = next(row["id"] for row in self.cloud.image.images if row["name"] == "astara")
        config = folder / "worker.conf"
        config.write_text(
            f"[DEFAULT]\ndeployment = lab\n[grpc]\nscheduler = {scheduler}\n"
            f"[openstack]\nauth_type = password\nauth_url = {self.cloud.auth_url}\nusername = astara\n"
            f"password = {self.cloud.options.password}\nproject_name = service\nuser_domain_id = default\n"
            "project_domain_id = default\n[claim]\nclaim = all\n"
            f"[worker]\nname = worker-1\nlisten = 127.0.0.1:{free_port()}\n"
            f"[router]\nimage_id = {image}\nflavor = m1.astara\nmanagement_network_id = {network}\n"
            "orchestrator_addresses = 127.0.0.1\nboot_look_interval = 0.1\n"
            "[appliance]\nsecret = conformance-test-only\n"
        )
        return sys.executable, "-m", "services.worker", "--config-file", str(config)

    async def router(self) -> tuple[str, str]:
        from openstack.connection import Connection

        def make() -> tuple[str, str]:
            connection = Connection(
                auth={
                    "auth_url": self.cloud.auth_url,
                    "username": "red",
                    "password": self.cloud.options.password,
                    "project_name": "red",
                    "user_domain_id": "default",
                    "project_domain_id": "default",
                },
                region_name="RegionOne",
            )
            made = connection.network.create_router(name="conformance")
            connection.close()
            return made.id, made.project_id

        self.cloud.tenant("red")
        return await asyncio.to_thread(make)

    async def close(self) -> None:
        await self.hypervisor.close()
        await self.host.close()
        await self.cloud.stop()


IMPLEMENTATIONS: list[type[Implementation]] = [Example, Ours]


class Stream:
    """One Work stream as the scripted scheduler sees it."""

    def __init__(self) -> None:
        self.seen: list[work_pb2.WorkRequest] = []
        self.news = asyncio.Condition()
        self.outgoing: asyncio.Queue[work_pb2.WorkResponse | None] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.answer_renewals = True

    def send(self, **message: Any) -> None:
        self.outgoing.put_nowait(work_pb2.WorkResponse(**message))

    def cut(self) -> None:
        self.outgoing.put_nowait(None)

    async def until(self, condition: Callable[[work_pb2.WorkRequest], bool]) -> work_pb2.WorkRequest:
        """The first message, seen already or to come, that meets the condition."""
        async with self.news:
            await self.news.wait_for(lambda: self.ended.is_set() or any(map(condition, self.seen)))
            return next(message for message in self.seen if condition(message))

    async def until_kind(self, kind: str) -> Any:
        return getattr(await self.until(lambda message: message.WhichOneof("message") == kind), kind)


class ScriptedScheduler(work_pb2_grpc.WorkServiceServicer):
    """Accepts streams; each is driven by the test."""

    def __init__(self) -> None:
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()
        self.server = grpc.aio.server()
        work_pb2_grpc.add_WorkServiceServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    async def Work(self, requests: AsyncIterator[work_pb2.WorkRequest], context: Any) -> None:  # noqa: N802
        stream = Stream()
        reading = asyncio.create_task(self._read(stream, requests))
        await self.streams.put(stream)
        try:
            while (message := await stream.outgoing.get()) is not None:
                await context.write(message)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut by the test")
        finally:
            reading.cancel()
            stream.ended.set()
            async with stream.news:
                stream.news.notify_all()

    async def _read(self, stream: Stream, requests: AsyncIterator[work_pb2.WorkRequest]) -> None:
        async for request in requests:
            async with stream.news:
                stream.seen.append(request)
                stream.news.notify_all()
            if request.HasField("lease_renewal") and stream.answer_renewals:
                stream.send(renewed=work_pb2.Renewed(nonce=request.lease_renewal.nonce))
        stream.outgoing.put_nowait(None)


class Running:
    """A worker process with its implementation."""

    def __init__(self, implementation: Implementation) -> None:
        self.implementation = implementation
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, scheduler: str, folder: Path) -> None:
        command = await self.implementation.command(scheduler, folder)
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/gen"}
        with (folder / "worker.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    async def close(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
        await self.implementation.close()


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedScheduler]:
    scheduler = ScriptedScheduler()
    await scheduler.server.start()
    yield scheduler
    await scheduler.server.stop(0)


@pytest.fixture(params=IMPLEMENTATIONS, ids=lambda implementation: implementation.name)
async def worker(request: pytest.FixtureRequest, scripted: ScriptedScheduler, tmp_path: Path) -> AsyncIterator[Running]:
    """A worker that dials the scripted scheduler."""
    running = Running(request.param())
    await running.start(scripted.address, tmp_path)
    yield running
    await running.close()


def held(*shards: int, counter: int = 1) -> list[work_pb2.HeldShard]:
    return [work_pb2.HeldShard(shard=shard, term=1, counter=counter + shard) for shard in shards]


async def welcomed(scripted: ScriptedScheduler) -> Stream:
    stream = await scripted.streams.get()
    await stream.until_kind("hello")
    stream.send(welcome=work_pb2.Welcome(term=1, lease_milliseconds=LEASE_MS))
    await stream.until_kind("lease_renewal")
    return stream


async def granted(scripted: ScriptedScheduler, worker: Running) -> tuple[Stream, str, str]:
    """A stream whose worker holds the shard of a router, and was told of the router."""
    stream = await welcomed(scripted)
    resource_id, tenant = await worker.implementation.router()
    known = work_pb2.KnownResource(resource_id=resource_id, kind="RESOURCE_KIND_ROUTER", tenant_id=tenant)
    stream.send(grant=work_pb2.Grant(shards=held(shard_of(tenant)), resources=[known]))
    await reported(stream, resource_id)
    return stream, resource_id, tenant


async def reported(stream: Stream, resource_id: str) -> resource_pb2.Resource:
    def configured(resource: resource_pb2.Resource) -> bool:
        return resource.resource_id == resource_id and resource.state == resource_pb2.INSTANCE_STATE_CONFIGURED

    message = await stream.until(lambda request: any(map(configured, request.status.resources)))
    return next(filter(configured, message.status.resources))


async def test_the_first_message_is_hello_and_holds_nothing(scripted: ScriptedScheduler, worker: Running) -> None:
    stream = await scripted.streams.get()
    await stream.until_kind("hello")
    hello = stream.seen[0].hello
    assert hello.worker == "worker-1"
    assert uuid.UUID(hello.incarnation)
    assert not hello.held


async def test_nothing_but_hello_is_sent_before_welcome(scripted: ScriptedScheduler, worker: Running) -> None:
    stream = await scripted.streams.get()
    await stream.until_kind("hello")
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await stream.until(lambda message: not message.HasField("hello"))
    assert len(stream.seen) == 1
    stream.send(welcome=work_pb2.Welcome(term=1, lease_milliseconds=LEASE_MS))
    await stream.until_kind("lease_renewal")


async def test_renewals_keep_coming_each_with_a_nonce_of_its_own(scripted: ScriptedScheduler, worker: Running) -> None:
    stream = await welcomed(scripted)

    def nonces() -> list[int]:
        return [message.lease_renewal.nonce for message in stream.seen if message.HasField("lease_renewal")]

    await stream.until(lambda _: len(nonces()) >= 4)
    assert len(set(nonces())) == len(nonces())


async def test_deliveries_are_acked_by_number_and_the_resource_is_reported(
    scripted: ScriptedScheduler, worker: Running
) -> None:
    stream, resource_id, tenant = await granted(scripted, worker)
    hint = work_pb2.Hint(resource_id=resource_id, kind="RESOURCE_KIND_ROUTER", tenant_id=tenant, actions=UPDATE)
    for number in (1, 2):
        stream.send(deliver=work_pb2.Deliver(number=number, hints=[hint]))
    await stream.until(lambda request: request.HasField("ack") and request.ack.number == 2)
    for message in stream.seen:
        assert all(resource.tenant_id == tenant for resource in message.status.resources)


async def test_an_operation_is_reported_for_its_resource(scripted: ScriptedScheduler, worker: Running) -> None:
    stream, resource_id, tenant = await granted(scripted, worker)
    operation = resource_pb2.Operation(
        operation_id=str(uuid.uuid4()),
        kind="OPERATION_KIND_UPDATE",
        scope="OPERATION_SCOPE_RESOURCE",
        target_id=resource_id,
    )
    hint = work_pb2.Hint(
        resource_id=resource_id, kind="RESOURCE_KIND_ROUTER", tenant_id=tenant, actions=UPDATE, operations=[operation]
    )
    stream.send(deliver=work_pb2.Deliver(number=1, hints=[hint]))
    succeeded = resource_pb2.OPERATION_STATE_SUCCEEDED
    report = await stream.until(lambda r: r.HasField("operation") and r.operation.state == succeeded)
    assert (report.operation.operation_id, report.operation.resource_id) == (operation.operation_id, resource_id)


async def test_a_revoke_is_answered_by_released_and_no_report_of_the_shard_follows(
    scripted: ScriptedScheduler, worker: Running
) -> None:
    stream, resource_id, tenant = await granted(scripted, worker)
    shard = held(shard_of(tenant))
    stream.send(revoke=work_pb2.Revoke(shards=shard))
    released = (await stream.until_kind("released")).shards
    assert [(one.shard, one.term, one.counter) for one in released] == [
        (one.shard, one.term, one.counter) for one in shard
    ]
    before = len(stream.seen)
    hint = work_pb2.Hint(resource_id=resource_id, kind="RESOURCE_KIND_ROUTER", tenant_id=tenant, actions=UPDATE)
    stream.send(deliver=work_pb2.Deliver(number=1, hints=[hint]))
    await stream.until_kind("ack")
    stream.send(diagnosis_request=work_pb2.DiagnosisRequest(diagnosis_id="later"))
    await stream.until_kind("diagnosis")
    assert not [message for message in stream.seen[before:] if message.status.resources]


async def test_after_a_broken_stream_hello_names_what_is_still_held(
    scripted: ScriptedScheduler, worker: Running
) -> None:
    stream, _, tenant = await granted(scripted, worker)
    first = stream.seen[0].hello
    stream.cut()
    again = await scripted.streams.get()
    hello = await again.until_kind("hello")
    assert hello.incarnation == first.incarnation
    assert [(one.shard, one.term, one.counter) for one in hello.held] == [
        (one.shard, one.term, one.counter) for one in held(shard_of(tenant))
    ]


async def test_a_shard_that_welcome_does_not_keep_is_no_longer_held(
    scripted: ScriptedScheduler, worker: Running
) -> None:
    stream, _, _ = await granted(scripted, worker)
    stream.cut()
    again = await welcomed(scripted)
    again.cut()
    assert not (await (await scripted.streams.get()).until_kind("hello")).held


async def test_a_debug_change_is_confirmed(scripted: ScriptedScheduler, worker: Running) -> None:
    stream, resource_id, _ = await granted(scripted, worker)
    flag = resource_pb2.DebugFlag(scope="OPERATION_SCOPE_RESOURCE", target_id=resource_id)
    stream.send(flag_change=work_pb2.FlagChange(change_id="c1", flag=flag))
    assert (await stream.until_kind("flag_applied")).change_id == "c1"


async def test_a_diagnosis_is_a_json_object_that_names_the_worker(scripted: ScriptedScheduler, worker: Running) -> None:
    stream = await welcomed(scripted)
    stream.send(diagnosis_request=work_pb2.DiagnosisRequest(diagnosis_id="d1"))
    diagnosis = await stream.until_kind("diagnosis")
    assert diagnosis.diagnosis_id == "d1"
    assert json.loads(diagnosis.json)["worker"] == "worker-1"


async def test_messages_of_a_later_version_are_ignored(scripted: ScriptedScheduler, worker: Running) -> None:
    stream = await welcomed(scripted)
    later = work_pb2.WorkResponse.FromString(b"\xf2\x07\x03abc")  # field 126, length-delimited
    stream.outgoing.put_nowait(later)
    stream.send(diagnosis_request=work_pb2.DiagnosisRequest(diagnosis_id="still here"))
    assert (await stream.until_kind("diagnosis")).diagnosis_id == "still here"


async def test_sigterm_drains_and_the_process_ends_once_everything_is_released(
    scripted: ScriptedScheduler, worker: Running
) -> None:
    stream, _, tenant = await granted(scripted, worker)
    assert worker.process is not None
    worker.process.send_signal(signal.SIGTERM)
    await stream.until_kind("drain")
    stream.send(revoke=work_pb2.Revoke(shards=held(shard_of(tenant))))
    await stream.until_kind("released")
    assert await worker.process.wait() == 0


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda implementation: implementation.name)
async def test_a_router_reaches_configured_under_the_real_scheduler(
    implementation: type[Implementation], tmp_path: Path
) -> None:
    """Event in, status out, a command done, and everything given back at the end."""
    address = f"127.0.0.1:{free_port()}"
    config = tmp_path / "scheduler.conf"
    config.write_text(
        f"[scheduler]\nlisten = {address}\ndatabase = sqlite:///{tmp_path}/s.db\n"
        "lease_seconds = 2\ninventory = optional\n"
    )
    classes = (CommonSettings, SchedulerSettings, GrpcSettings, MetricsSettings)
    stop = asyncio.Event()
    scheduler = asyncio.create_task(scheduler_main(load("t", ["--config-file", str(config)], classes), stop))
    running = Running(implementation())
    await running.start(address, tmp_path)
    resource_id, tenant = await running.implementation.router()
    async with grpc.aio.insecure_channel(address) as channel:
        query = query_pb2_grpc.QueryServiceStub(channel)

        async def events() -> AsyncIterator[ingest_pb2.PublishRequest]:
            subject = event_pb2.Subject(resource_id=resource_id, project_id=tenant)
            event = event_pb2.Event(kind=event_pb2.EVENT_KIND_CREATE, subject=subject, priority="PRIORITY_USER")
            yield ingest_pb2.PublishRequest(producer="test", first_number=1, events=[event])
            await acked.wait()

        acked = asyncio.Event()
        while not acked.is_set():
            with suppress(grpc.aio.AioRpcError):
                async for response in ingest_pb2_grpc.IngestServiceStub(channel).Publish(events(), wait_for_ready=True):
                    if response.acked:
                        acked.set()
                        break
        watch = query.WatchResources(query_pb2.WatchResourcesRequest(resource_ids=[resource_id]))
        async for changes in watch:
            if any(one.state == resource_pb2.INSTANCE_STATE_CONFIGURED for one in changes.changed):
                break
        request = operate_pb2.StartOperationRequest(
            kind="OPERATION_KIND_UPDATE", scope="OPERATION_SCOPE_RESOURCE", target_id=resource_id
        )
        started = await operate_pb2_grpc.OperateServiceStub(channel).StartOperation(request)
        name = started.operation.operation_id

        async def state() -> int:
            return (await query.GetOperation(query_pb2.GetOperationRequest(operation_id=name))).operation.state

        while await state() != resource_pb2.OPERATION_STATE_SUCCEEDED:  # noqa: ASYNC110 - another process reports
            await asyncio.sleep(0.02)
        assert running.process is not None
        running.process.send_signal(signal.SIGTERM)
        assert await running.process.wait() == 0
        shards = (await query.GetShardMap(query_pb2.GetShardMapRequest())).shards
        assert {shard.state for shard in shards} == {"unowned"}
    stop.set()
    await scheduler
    await running.close()
