"""Several schedulers with one MariaDB, and what becomes of them when it fails."""

import asyncio
import contextlib
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import sqlalchemy as sa
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import operate_pb2, query_pb2
from mariadb_running import MariaDb
from patience import until
from scheduler_running import Client, HandProducer, HandWorker, SchedulerHere, SchedulerProcess, event

from services.common.settings import SettingsError
from services.scheduler.settings import SchedulerSettings
from services.scheduler.tables import leader


@pytest.fixture
async def pair(tmp_path: Path, mariadb: MariaDb) -> AsyncIterator[tuple[SchedulerProcess, SchedulerProcess]]:
    """Two schedulers, in processes of their own, with one database; the first leads."""
    url = mariadb.new_database()
    both = [SchedulerProcess(tmp_path / name, database=url) for name in ("one", "two")]
    both[0].start()
    async with client_of(both[0]) as first:
        await first.leading()
    both[1].start()
    yield both[0], both[1]
    for one in both:
        one.close()


def client_of(*schedulers: SchedulerProcess | SchedulerHere) -> Client:
    """A client of whichever of them leads."""
    return Client("ipv4:" + ",".join(one.address for one in schedulers))


async def start_update(client: Client, router: str, operation_id: str) -> resource_pb2.Operation:
    """Command until it is answered, as rpcapi's callers do."""
    request = operate_pb2.StartOperationRequest(
        kind="OPERATION_KIND_UPDATE", scope="OPERATION_SCOPE_RESOURCE", target_id=router, operation_id=operation_id
    )
    while True:
        try:
            return (await client.operate.StartOperation(request, wait_for_ready=True)).operation
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND):
                raise
            await asyncio.sleep(0.05)


async def test_a_standby_takes_over_when_the_leader_goes_and_answers_unavailable_until_then(
    tmp_path: Path, mariadb: MariaDb
) -> None:
    url = mariadb.new_database()
    one, two = (SchedulerHere(tmp_path, name, database=url) for name in ("one", "two"))
    await one.start()
    async with Client(one.address) as first, Client(two.address) as second:
        await first.leading()
        await two.start()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await second.query.GetShardMap(query_pb2.GetShardMapRequest(), wait_for_ready=True)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        term = (await first.query.GetShardMap(query_pb2.GetShardMapRequest())).term
        await one.end()
        await second.leading()
        assert (await second.query.GetShardMap(query_pb2.GetShardMapRequest())).term == term + 1
    await two.end()


async def test_a_database_that_comes_back_empty_is_set_up_again(tmp_path: Path, mariadb: MariaDb) -> None:
    url = mariadb.new_database()
    one = SchedulerHere(tmp_path, database=url)
    await one.start()
    async with Client(one.address) as client:
        await client.leading()
        term = (await client.query.GetShardMap(query_pb2.GetShardMapRequest())).term
        name = sa.make_url(url).database
        with mariadb.admin() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name}"))
            connection.execute(sa.text(f"CREATE DATABASE {name}"))

        engine = sa.create_engine(url)

        def again() -> bool:
            with contextlib.suppress(sa.exc.SQLAlchemyError), engine.connect() as connection:
                # Appliances refuse a leader whose term is lower than one that they have seen.
                return int(connection.execute(sa.select(leader.c.term)).scalar_one()) >= term
            return False

        await until(again)
        engine.dispose()
        await client.leading()
    await one.end()


async def test_a_deposed_leader_writes_nothing_and_stands_by(tmp_path: Path, database: str) -> None:
    one = SchedulerHere(tmp_path, database=database)
    await one.start()
    async with Client(one.address) as client:
        await client.leading()
        worker = await HandWorker(client).connect()
        producer = await HandProducer(client).connect()
        watch = client.query.WatchResources(query_pb2.WatchResourcesRequest())
        assert (await watch.read()).synced
        # Somebody takes the row, as after an expiry that this leader slept through.
        engine = sa.create_engine(one.settings[SchedulerSettings].database)
        with engine.begin() as connection:
            taken = {"term": leader.c.term + 1, "holder": "another", "expires": time.time() + 60}
            connection.execute(sa.update(leader).values(taken))
        request = operate_pb2.StartOperationRequest(
            kind="OPERATION_KIND_DEBUG", scope="OPERATION_SCOPE_TENANT", target_id="t", wait_milliseconds=1
        )
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await client.operate.StartOperation(request)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        await worker.until(lambda: worker.ended is grpc.StatusCode.UNAVAILABLE)
        # Nor do those wait for ever who say nothing themselves.
        await producer.until(lambda: producer.ended)
        assert await watch.code() is grpc.StatusCode.UNAVAILABLE
        with engine.begin() as connection:
            assert connection.execute(sa.text("SELECT COUNT(*) FROM operation")).scalar() == 0
        engine.dispose()
    await one.end()


async def test_what_was_acked_or_commanded_outlives_a_killed_leader(
    pair: tuple[SchedulerProcess, SchedulerProcess],
) -> None:
    async with client_of(*pair) as client:
        worker = await HandWorker(client).connect()
        await worker.until(lambda: len(worker.held) == 1024)
        epochs = {shard: (held.term, held.counter) for shard, held in worker.held.items()}
        worker.report("r1", "t1", revision=1)
        operation = await start_update(client, "r1", str(uuid.uuid4()))
        worker.acking = False
        producer = await HandProducer(client).connect()
        # The worker is late, so the hints become rows and the producer is answered.
        names = [f"n{number}" for number in range(200)]
        await producer.answered(producer.publish(event("UPDATE", name, f"t{name}") for name in names))
        pair[0].end(signal.SIGKILL)
        await producer.until(lambda: producer.ended)
        await worker.until(lambda: worker.ended is not None)
        await reconnect(worker)
        await worker.until(lambda: set(names) <= set(worker.hints))
        await worker.until(lambda: any(hint.operations for hint in worker.hints.get("r1", [])))
        again = await HandProducer(client).connect()
        await again.answered(again.publish([event("UPDATE", "late", "t1")]))
        known = (
            await client.query.GetOperation(query_pb2.GetOperationRequest(operation_id=operation.operation_id))
        ).operation
        assert known.operation_id == operation.operation_id
        await worker.until(lambda: len(worker.held) == 1024)
        assert all((held.term, held.counter) >= epochs[shard] for shard, held in worker.held.items())
        await worker.disconnect()
        await producer.close()
        await again.close()


async def test_a_stopped_leader_finds_on_waking_that_another_leads(
    pair: tuple[SchedulerProcess, SchedulerProcess],
) -> None:
    async with Client(pair[0].address) as first, Client(pair[1].address) as second:
        pair[0].process.send_signal(signal.SIGSTOP)
        await second.leading()
        pair[0].process.send_signal(signal.SIGCONT)
        await until_standing_by(first)
        worker = await HandWorker(second).connect()
        await worker.until(lambda: len(worker.held) == 1024)
        await worker.disconnect()


async def reconnect(worker: HandWorker) -> None:
    """As real workers do: again until it is welcome."""
    await worker.disconnect()
    worker.hints.clear()
    worker.acking = True

    async def welcome() -> bool:
        await worker.connect()
        if worker.welcome is None:
            await worker.disconnect()
        return worker.welcome is not None

    await until(welcome)


async def until_standing_by(client: Client) -> None:
    async def reached() -> bool:
        try:
            await client.query.GetShardMap(query_pb2.GetShardMapRequest())
        except grpc.aio.AioRpcError as error:
            return error.details() == "this replica does not lead"
        return False

    await until(reached)


async def test_a_database_that_goes_and_comes_back_loses_nothing(
    pair: tuple[SchedulerProcess, SchedulerProcess], mariadb: MariaDb
) -> None:
    async with client_of(*pair) as client:
        worker = await HandWorker(client).connect()
        await worker.until(lambda: len(worker.held) == 1024)
        worker.report("r1", "t1", revision=1)
        before = await start_update(client, "r1", str(uuid.uuid4()))
        # Nobody acks, so what is acked is a row.
        worker.acking = False
        producer = await HandProducer(client).connect()
        numbers = producer.publish(event("UPDATE", f"a{number}", f"t{number}") for number in range(100))
        await producer.answered(numbers)
        mariadb.stop(signal.SIGKILL)
        pending = asyncio.create_task(start_update(client, "r1", wanted := str(uuid.uuid4())))
        await worker.until(lambda: worker.ended is not None)
        await producer.until(lambda: producer.ended)
        mariadb.start()
        await reconnect(worker)
        await worker.until(lambda: {f"a{number}" for number in range(100)} <= set(worker.hints))
        worker.report("r1", "t1", revision=1)
        assert (await pending).operation_id == wanted
        listed = await client.query.ListOperations(query_pb2.ListOperationsRequest())
        assert {wanted, before.operation_id} == {operation.operation_id for operation in listed.operations}
        await worker.disconnect()
        await producer.close()


async def test_a_scheduler_that_starts_before_its_database_waits_for_it(tmp_path: Path, mariadb: MariaDb) -> None:
    url = mariadb.new_database()
    mariadb.stop()
    one = SchedulerProcess(tmp_path, database=url)
    try:
        one.start()
        log = tmp_path / "scheduler.log"
        await until(lambda: "waiting for the database" in log.read_text())
        mariadb.start()
        async with Client(one.address) as client:
            await client.leading()
        assert "secret" not in log.read_text()
    finally:
        one.close()


async def test_a_second_scheduler_on_one_sqlite_file_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    one, two = SchedulerHere(tmp_path, "one"), SchedulerHere(tmp_path, "two")
    await one.start()
    async with Client(one.address) as client:
        await client.leading()
    await two.start()
    with pytest.raises(SettingsError, match=r"another scheduler uses .*several need MariaDB"):
        await two.task
    await one.end()
    await two.start()
    async with Client(two.address) as client:
        await client.leading()
    await two.end()


async def test_a_database_that_answers_nothing_ends_a_leadership_in_time(
    pair: tuple[SchedulerProcess, SchedulerProcess], mariadb: MariaDb
) -> None:
    async with Client(pair[0].address) as first, client_of(*pair) as client:
        mariadb.stop(signal.SIGSTOP)
        try:
            await until_standing_by(first)
        finally:
            mariadb.stop(signal.SIGCONT)
        await client.leading()


async def test_an_installation_without_the_client_of_kubernetes_leads_by_the_row_and_says_what_a_lease_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes_asyncio", None)
    monkeypatch.delitem(sys.modules, "services.scheduler.lease", raising=False)
    one = SchedulerHere(tmp_path)
    await one.start()
    async with Client(one.address) as client:
        await client.leading()
    await one.end()
    two = SchedulerHere(tmp_path, election="kubernetes")
    await two.start()
    with pytest.raises(SettingsError, match="pip install kubernetes-asyncio"):
        await two.end()
