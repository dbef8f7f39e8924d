"""Operators' commands, debug flags, queries and quarantine through a real scheduler with a real database."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from astara.event.v1 import event_pb2
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import operate_pb2, query_pb2, work_pb2
from patience import until
from scheduler_running import Client, HandProducer, HandWorker, SchedulerHere, event

from services.scheduler.hints import POLL, REBUILD, UPDATE


@pytest.fixture
async def scheduler(tmp_path: Path, database: str) -> AsyncIterator[SchedulerHere]:
    scheduler = SchedulerHere(tmp_path, database=database)
    await scheduler.start()
    yield scheduler
    await scheduler.end()


@pytest.fixture
async def client(scheduler: SchedulerHere) -> AsyncIterator[Client]:
    client = Client(scheduler.address)
    await client.leading()
    yield client
    await client.channel.close()


@pytest.fixture
async def worker(client: Client) -> AsyncIterator[HandWorker]:
    """A worker that owns everything, with routers r1 and r2 of tenant t and r3 of tenant u."""
    worker = await HandWorker(client).connect()
    await worker.until(lambda: len(worker.held) == 1024)
    for router, tenant in (("r1", "t"), ("r2", "t"), ("r3", "u")):
        worker.report(router, tenant, revision=1)
    await until_resources(client, 3)
    yield worker
    await worker.disconnect()


async def until_resources(client: Client, count: int) -> None:
    async def reached() -> bool:
        return len((await client.query.ListResources(query_pb2.ListResourcesRequest())).resources) == count

    await until(reached)


async def start(client: Client, kind: str, scope: str, target: str = "", **facts: object) -> resource_pb2.Operation:
    request = operate_pb2.StartOperationRequest(
        kind=f"OPERATION_KIND_{kind}", scope=f"OPERATION_SCOPE_{scope}", target_id=target, **facts
    )
    return (await client.operate.StartOperation(request)).operation


async def refused(client: Client, *arguments: str, **facts: object) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await start(client, *arguments, **facts)
    return raised.value.code()


async def until_state(client: Client, operation_id: str, state: str) -> resource_pb2.Operation:
    wanted = resource_pb2.OperationState.Value(f"OPERATION_STATE_{state}")
    while True:
        request = query_pb2.GetOperationRequest(operation_id=operation_id)
        operation = (await client.query.GetOperation(request)).operation
        if operation.state == wanted:
            return operation
        await asyncio.sleep(0.01)


def finish(
    worker: HandWorker, operation: resource_pb2.Operation, router: str, state: str = "SUCCEEDED", message: str = ""
) -> None:
    report = work_pb2.OperationReport(operation_id=operation.operation_id, resource_id=router, message=message)
    report.state = resource_pb2.OperationState.Value(f"OPERATION_STATE_{state}")
    worker.send(operation=report)


async def test_a_rebuild_reaches_the_owner_and_its_end_is_told(client: Client, worker: HandWorker) -> None:
    operation = await start(client, "REBUILD", "RESOURCE", "r1", image_id="img", requested_by="ann", reason="broken")
    assert operation.state == resource_pb2.OPERATION_STATE_RUNNING
    await worker.until(lambda: any(hint.actions & REBUILD for hint in worker.hints.get("r1", [])))
    hint = worker.hints["r1"][-1]
    assert hint.image_id == "img"
    assert [told.operation_id for told in hint.operations] == [operation.operation_id]
    assert hint.priority == event_pb2.PRIORITY_USER
    finish(worker, operation, "r1")
    done = await until_state(client, operation.operation_id, "SUCCEEDED")
    assert (done.total, done.done, done.requested_by, done.reason) == (1, 1, "ann", "broken")


async def test_a_global_command_covers_all_and_fails_when_one_fails(client: Client, worker: HandWorker) -> None:
    operation = await start(client, "POLL", "GLOBAL")
    assert operation.total == 3
    await worker.until(lambda: {"r1", "r2", "r3"} <= set(worker.hints))
    assert worker.hints["r3"][-1].actions == POLL
    finish(worker, operation, "r1")
    finish(worker, operation, "r2", "FAILED", "it is on fire")
    finish(worker, operation, "r3")
    done = await until_state(client, operation.operation_id, "FAILED")
    assert (done.done, done.failed, done.message) == (2, 1, "r2: it is on fire")
    listed = await client.query.ListOperations(query_pb2.ListOperationsRequest())
    assert [item.operation_id for item in listed.operations] == [operation.operation_id]


async def test_the_same_operation_id_is_the_same_operation(client: Client, worker: HandWorker) -> None:
    name = "7d4bb1f0-3f0e-4d53-8f0e-2b1fd9b4f001"
    first, second = await asyncio.gather(
        *(start(client, "REBUILD", "RESOURCE", "r1", operation_id=name) for _ in range(2))
    )
    assert first.operation_id == second.operation_id == name
    await worker.until(lambda: "r1" in worker.hints)
    finish(worker, first, "r1")
    await until_state(client, name, "SUCCEEDED")
    assert (await start(client, "REBUILD", "RESOURCE", "r1", operation_id=name)).state == 3


async def test_wrong_commands_are_refused_by_name_of_the_field(client: Client, worker: HandWorker) -> None:
    assert await refused(client, "UPDATE", "RESOURCE", "nobody") is grpc.StatusCode.NOT_FOUND
    assert await refused(client, "UPDATE", "RESOURCE") is grpc.StatusCode.INVALID_ARGUMENT
    assert await refused(client, "UPDATE", "GLOBAL", "r1") is grpc.StatusCode.INVALID_ARGUMENT
    assert await refused(client, "REBUILD", "RESOURCE", "r1", image_id="x" * 300) is grpc.StatusCode.INVALID_ARGUMENT
    assert await refused(client, "POLL", "RESOURCE", "r1", image_id="x") is grpc.StatusCode.INVALID_ARGUMENT
    assert await refused(client, "POLL", "RESOURCE", "r1", operation_id="x") is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_unfinished_operation_survives_a_restart_and_reaches_the_owner_again(
    scheduler: SchedulerHere, client: Client, worker: HandWorker
) -> None:
    operation = await start(client, "REBUILD", "RESOURCE", "r1", image_id="img")
    await worker.until(lambda: "r1" in worker.hints)
    await scheduler.end()
    await worker.disconnect()
    worker.hints.clear()
    await scheduler.start()
    await client.leading()
    await worker.connect()
    await worker.until(lambda: any(hint.operations for hint in worker.hints.get("r1", [])))
    assert worker.hints["r1"][-1].image_id == "img"
    worker.report("r1", "t", revision=1)
    finish(worker, operation, "r1")
    await until_state(client, operation.operation_id, "SUCCEEDED")


async def test_debug_waits_until_the_owner_says_that_no_step_runs(client: Client, worker: HandWorker) -> None:
    asked = asyncio.create_task(start(client, "DEBUG", "RESOURCE", "r1", reason="look inside"))
    await worker.until(lambda: worker.flags)
    assert not asked.done()
    assert worker.flags[0].flag.target_id == "r1"
    worker.send(flag_applied=work_pb2.FlagApplied(change_id=worker.flags[0].change_id))
    assert (await asked).state == resource_pb2.OPERATION_STATE_SUCCEEDED
    assert (await client.resource("r1")).debug
    assert not (await client.resource("r2")).debug
    assert await refused(client, "UPDATE", "RESOURCE", "r1") is grpc.StatusCode.FAILED_PRECONDITION
    assert (await start(client, "POLL", "TENANT", "t")).total == 1


async def test_debug_that_no_worker_confirms_in_time_is_still_running_and_in_force(
    client: Client, worker: HandWorker
) -> None:
    operation = await start(client, "DEBUG", "TENANT", "t", wait_milliseconds=50)
    assert operation.state == resource_pb2.OPERATION_STATE_RUNNING
    assert (await client.resource("r2")).debug
    worker.send(flag_applied=work_pb2.FlagApplied(change_id=worker.flags[0].change_id))
    await until_state(client, operation.operation_id, "SUCCEEDED")


async def test_flags_survive_a_restart_and_managing_a_tenant_clears_its_routers_flags(
    scheduler: SchedulerHere, client: Client, worker: HandWorker
) -> None:
    for scope, target in (("RESOURCE", "r1"), ("RESOURCE", "r3"), ("TENANT", "t")):
        await start(client, "DEBUG", scope, target, wait_milliseconds=1)
    await scheduler.end()
    await worker.disconnect()
    await scheduler.start()
    await client.leading()
    await worker.connect()
    assert {flag.target_id for flag in worker.welcome.debug_flags} == {"r1", "r3", "t"}
    worker.flags.clear()
    await start(client, "MANAGE", "TENANT", "t", wait_milliseconds=1)
    flags = (await client.query.ListDebugFlags(query_pb2.ListDebugFlagsRequest())).flags
    assert [flag.target_id for flag in flags] == ["r3"]
    await worker.until(lambda: len(worker.flags) == 2)
    assert {change.flag.target_id for change in worker.flags if change.cleared} == {"r1", "t"}


async def test_workers_debug_brings_a_diagnosis_of_each_worker(client: Client, worker: HandWorker) -> None:
    other = await HandWorker(client, "worker-2").connect()
    for one in (worker, other):

        def answer(message: work_pb2.WorkResponse, one: HandWorker = one, take=one._take) -> None:
            take(message)
            if message.HasField("diagnosis_request"):
                name = message.diagnosis_request.diagnosis_id
                text = json.dumps({"worker": one.name})
                one.send(diagnosis=work_pb2.Diagnosis(diagnosis_id=name, json=text))

        one._take = answer
    operation = await start(client, "WORKERS_DEBUG", "GLOBAL")
    assert operation.state == resource_pb2.OPERATION_STATE_SUCCEEDED
    assert [json.loads(text)["worker"] for text in operation.diagnoses] == ["worker-1", "worker-2"]
    await other.disconnect()


@pytest.mark.parametrize(("scope", "target"), [("GLOBAL", ""), ("TENANT", "t"), ("RESOURCE", "r1")])
async def test_workers_debug_says_to_workers_of_which_resources_it_wants_to_hear(
    client: Client, worker: HandWorker, scope: str, target: str
) -> None:
    asked: list[work_pb2.DiagnosisRequest] = []

    def answer(message: work_pb2.WorkResponse, take=worker._take) -> None:
        take(message)
        if message.HasField("diagnosis_request"):
            asked.append(message.diagnosis_request)
            name = message.diagnosis_request.diagnosis_id
            worker.send(diagnosis=work_pb2.Diagnosis(diagnosis_id=name, json="{}"))

    worker._take = answer
    operation = await start(client, "WORKERS_DEBUG", scope, target)
    assert (operation.state, operation.target_id) == (resource_pb2.OPERATION_STATE_SUCCEEDED, target)
    (request,) = asked
    wanted = {"TENANT": (target, ""), "RESOURCE": ("", target), "GLOBAL": ("", "")}[scope]
    assert (request.tenant_id, request.resource_id) == wanted


async def test_a_command_over_the_broker_becomes_one_operation_however_often_it_comes(
    client: Client, worker: HandWorker
) -> None:
    producer = await HandProducer(client).connect()
    command = event_pb2.Command(verb="router rebuild", target_id="r1")
    wrong = event_pb2.Command(verb="router ssh", target_id="r1")
    events = [event("COMMAND", request_id="m1", command=command) for _ in range(2)]
    numbers = producer.publish([*events, event("COMMAND", request_id="m2", command=wrong)])
    await producer.answered(numbers)
    assert "router ssh" in producer.rejected[numbers[2]]
    listed = (await client.query.ListOperations(query_pb2.ListOperationsRequest())).operations
    assert [(item.kind, item.target_id) for item in listed] == [(resource_pb2.OPERATION_KIND_REBUILD, "r1")]
    await producer.close()


async def test_a_resource_in_progress_in_two_deaths_is_held_back_until_an_operator_commands_it(
    client: Client, worker: HandWorker
) -> None:
    await worker.disconnect()
    for turn in range(2):
        victim = await HandWorker(client, f"victim-{turn}").connect()
        await victim.until(lambda v=victim: len(v.held) == 1024)
        victim.report("r1", "t", state=resource_pb2.INSTANCE_STATE_BOOTING, in_progress=True, revision=1)

        async def reported(name: str = victim.name) -> bool:
            resource = await client.resource("r1")
            return resource.worker == name and resource.in_progress

        await until(reported)
        await victim.disconnect()
        await client.until_shards(lambda shards: all(shard.state == "unowned" for shard in shards))
    assert (await client.resource("r1")).quarantined
    heir = await HandWorker(client, "heir").connect()
    await heir.until(lambda: len(heir.held) == 1024 and "r2" in heir.known)
    producer = await HandProducer(client).connect()
    await producer.answered(producer.publish([event("UPDATE", "r1", "t"), event("UPDATE", "r2", "t")]))
    assert "r1" not in heir.known
    assert "r1" not in heir.hints
    await start(client, "UPDATE", "RESOURCE", "r1")
    await heir.until(lambda: "r1" in heir.hints)
    assert heir.hints["r1"][-1].actions & UPDATE
    assert not (await client.resource("r1")).quarantined
    await heir.disconnect()


async def test_a_status_counts_only_from_the_holder_and_a_watch_sees_it(client: Client, worker: HandWorker) -> None:
    watch = client.query.WatchResources(query_pb2.WatchResourcesRequest(tenant_id="t"))
    first = await watch.read()
    assert {resource.resource_id for resource in first.changed} == {"r1", "r2"}
    assert first.synced
    other = await HandWorker(client, "worker-2").connect()
    await other.until(lambda: len(other.held) == 512)
    await worker.until(lambda: len(worker.held) == 512)
    holder, stranger = (worker, other) if (await client.resource("r1")).worker == worker.name else (other, worker)
    stranger.report("r1", "t", state=resource_pb2.INSTANCE_STATE_ERROR, revision=2)
    holder.report("r1", "t", state=resource_pb2.INSTANCE_STATE_BOOTING, revision=2)
    states = set()
    while resource_pb2.INSTANCE_STATE_BOOTING not in states:
        states |= {resource.state for resource in (await watch.read()).changed if resource.resource_id == "r1"}
    assert resource_pb2.INSTANCE_STATE_ERROR not in states
    holder.send(status=work_pb2.StatusReport(gone_resource_ids=["r1"]))
    while "r1" not in (await watch.read()).gone_resource_ids:
        pass
    watch.cancel()
    await other.disconnect()


async def test_history_is_kept_newest_first(client: Client, worker: HandWorker) -> None:
    lines = [work_pb2.HistoryEntry(resource_id="r1", at_ms=n * 1000, kind="boot", text=f"try {n}") for n in (1, 2, 3)]
    worker.send(status=work_pb2.StatusReport(history=lines))
    worker.report("r4", "t", revision=1)
    await until_resources(client, 4)
    answer = await client.query.GetHistory(query_pb2.GetHistoryRequest(resource_id="r1", limit=2))
    assert [(line.text, line.worker) for line in answer.lines] == [("try 3", "worker-1"), ("try 2", "worker-1")]


async def test_before_the_inventory_nothing_is_said_not_to_exist(tmp_path: Path) -> None:
    scheduler = SchedulerHere(tmp_path, inventory="required")
    await scheduler.start()
    client = Client(scheduler.address)
    await client.leading()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await client.resource("r1")
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await refused(client, "UPDATE", "GLOBAL") is grpc.StatusCode.UNAVAILABLE
    assert not (await client.query.ListResources(query_pb2.ListResourcesRequest())).complete
    await client.channel.close()
    await scheduler.end()


async def test_an_operations_id_is_not_lent_to_another_command(client: Client, worker: HandWorker) -> None:
    name = "5b0b9d9e-6c3c-4c0f-9d5e-0f4f3b7f7a11"
    first = await start(client, "UPDATE", "RESOURCE", "r1", operation_id=name)
    again = await start(client, "UPDATE", "RESOURCE", "r1", operation_id=name)
    assert again.operation_id == first.operation_id
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await start(client, "UPDATE", "RESOURCE", "r2", operation_id=name)
    assert raised.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_a_target_that_is_no_id_is_refused_by_name(client: Client, worker: HandWorker) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await start(client, "UPDATE", "RESOURCE", "../networks")
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "target_id" in str(raised.value.details())


async def test_a_workers_name_that_the_database_cannot_keep_is_refused(client: Client) -> None:
    worker = await HandWorker(client, "w" * 256).connect()
    assert worker.ended is grpc.StatusCode.INVALID_ARGUMENT
    await worker.disconnect()
