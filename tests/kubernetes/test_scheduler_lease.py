"""Schedulers that elect their leader by a Lease of a real API server, with the permissions that are documented."""

import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc.aio
import pytest
import sqlalchemy as sa
from astara.scheduler.v1 import query_pb2
from cluster_running import GRANTED, Cluster, Namespace, SchedulerPod
from mariadb_running import MariaDb
from patience import until
from scheduler_running import Client, HandWorker, SchedulerProcess

Maker = Callable[..., SchedulerPod]


@pytest.fixture
def namespace(cluster: Cluster) -> Namespace:
    return Namespace(cluster)


@pytest.fixture
def database(mariadb: MariaDb) -> str:
    return mariadb.new_database()


@pytest.fixture
def pods(tmp_path: Path, namespace: Namespace, database: str) -> Iterator[Maker]:
    """Makes schedulers of one database, each with a host name; ends them."""
    made: list[SchedulerPod] = []

    def make(host: str, **options: object) -> SchedulerPod:
        made.append(SchedulerPod(tmp_path, namespace, host, database=database, **options))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
async def pair(pods: Maker) -> tuple[SchedulerPod, SchedulerPod]:
    """Two of them; the first leads, the second stands by."""
    one = pods("one")
    await led_by(one)
    two = pods("two")
    await until(lambda: "another replica leads" in two.said())
    return one, two


async def led_by(scheduler: SchedulerProcess) -> int:
    """Wait until it leads; answers with its term."""
    async with Client(scheduler.address) as client:
        await client.leading()
        return (await client.query.GetShardMap(query_pb2.GetShardMapRequest())).term


async def leads(scheduler: SchedulerProcess) -> bool:
    """Whether it says so at this moment."""
    async with Client(scheduler.address) as client:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await client.query.GetShardMap(query_pb2.GetShardMapRequest(), wait_for_ready=True, timeout=10)
            return True
        return False


async def stands_by(scheduler: SchedulerProcess) -> None:
    async def reached() -> bool:
        return not await leads(scheduler)

    await until(reached)


async def test_the_first_leads_and_the_lease_says_so_and_is_renewed(
    pair: tuple[SchedulerPod, SchedulerPod], namespace: Namespace
) -> None:
    assert namespace.holder() == "one"
    before = namespace.lease()
    assert before["leaseDurationSeconds"] == 2
    await until(lambda: namespace.lease()["renewTime"] > before["renewTime"])
    after = namespace.lease()
    assert (after["holderIdentity"], after["acquireTime"], after["leaseTransitions"]) == (
        before["holderIdentity"],
        before["acquireTime"],
        before["leaseTransitions"],
    )
    assert await leads(pair[0])
    assert not await leads(pair[1])


async def test_a_leader_that_is_told_to_end_lets_the_lease_go(
    pair: tuple[SchedulerPod, SchedulerPod], namespace: Namespace
) -> None:
    term = await led_by(pair[0])
    transitions = namespace.lease()["leaseTransitions"]
    assert pair[0].end(signal.SIGTERM) == 0
    # Not by the Lease's running out: its holder was nobody, and the row said so too.
    assert namespace.holder() in ("", "two")
    assert await led_by(pair[1]) == term + 1
    assert namespace.holder() == "two"
    assert namespace.lease()["leaseTransitions"] > transitions


async def test_a_stopped_leader_is_followed_once_its_lease_ran_out_and_finds_that_out_on_waking(
    pair: tuple[SchedulerPod, SchedulerPod], namespace: Namespace
) -> None:
    term = await led_by(pair[0])
    pair[0].process.send_signal(signal.SIGSTOP)
    assert await led_by(pair[1]) == term + 1
    pair[0].process.send_signal(signal.SIGCONT)
    await stands_by(pair[0])
    assert namespace.holder() == "two"
    async with Client(pair[1].address) as client:
        worker = await HandWorker(client).connect()
        await worker.until(lambda: len(worker.held) == 1024)
        assert {held.term for held in worker.held.values()} == {term + 1}
        await worker.disconnect()


async def test_a_killed_leader_is_followed_and_its_own_return_stands_by(
    pair: tuple[SchedulerPod, SchedulerPod], namespace: Namespace
) -> None:
    term = await led_by(pair[0])
    pair[0].end(signal.SIGKILL)
    assert await led_by(pair[1]) == term + 1
    pair[0].start()
    await until(lambda: pair[0].said().count("another replica leads") == 1)
    assert not await leads(pair[0])


async def test_nobody_leads_without_the_api_server_and_one_does_when_it_is_back(
    pair: tuple[SchedulerPod, SchedulerPod], namespace: Namespace
) -> None:
    term = await led_by(pair[0])
    namespace.cluster.stop()
    try:
        await stands_by(pair[0])
        assert not await leads(pair[1])
        await until(lambda: "ran out before it could be renewed" in pair[0].said())
    finally:
        namespace.cluster.go_on()
    async with Client("ipv4:" + ",".join(one.address for one in pair)) as client:
        await client.leading()
        assert (await client.query.GetShardMap(query_pb2.GetShardMapRequest())).term > term
    assert [await leads(one) for one in pair].count(True) == 1


async def test_a_deleted_lease_deposes_nobody(pair: tuple[SchedulerPod, SchedulerPod], namespace: Namespace) -> None:
    term = await led_by(pair[0])
    for _ in range(3):
        namespace.delete_lease()
        await until(lambda: namespace.holder() != "")
        assert namespace.holder() == "one"
    assert await led_by(pair[0]) == term
    assert not await leads(pair[1])


async def test_the_term_grows_when_the_lease_is_deleted_while_nobody_leads(pods: Maker, namespace: Namespace) -> None:
    terms = []
    for number in range(3):
        one = pods(f"host-{number}")
        terms.append(await led_by(one))
        one.end((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)[number])
        namespace.delete_lease()
    assert all(later > earlier for earlier, later in itertools.pairwise(terms))


async def test_who_is_written_into_the_lease_by_hand_is_obeyed(
    pair: tuple[SchedulerPod, SchedulerPod], namespace: Namespace
) -> None:
    term = await led_by(pair[0])
    namespace.patch_lease({"spec": {"holderIdentity": "an-operator", "leaseDurationSeconds": 1}})
    async with Client("ipv4:" + ",".join(one.address for one in pair)) as client:
        await until(lambda: "is held by an-operator" in pair[0].said())
        await client.leading()
        assert (await client.query.GetShardMap(query_pb2.GetShardMapRequest())).term > term
    assert [await leads(one) for one in pair].count(True) == 1


async def test_labels_and_annotations_of_others_stay_on_the_lease(
    pair: tuple[SchedulerPod, SchedulerPod], namespace: Namespace
) -> None:
    namespace.patch_lease({"metadata": {"annotations": {"example.org/kept": "yes"}}})
    before = namespace.lease()["renewTime"]
    await until(lambda: namespace.lease()["renewTime"] > before)
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace.name}/leases/astara-scheduler"
    assert namespace.cluster.call("GET", path)["metadata"]["annotations"] == {"example.org/kept": "yes"}
    assert namespace.holder() == "one"


@pytest.mark.parametrize("missing", sorted(GRANTED))
async def test_a_permission_that_is_missing_is_named_and_nobody_leads_until_it_is_given(
    pods: Maker, namespace: Namespace, missing: str
) -> None:
    if missing == "update":
        one = pods("earlier")
        await led_by(one)
        one.end()
    namespace.grant(set(GRANTED) - {missing})
    one = pods("one")
    await until(lambda: f"may not {missing} leases.coordination.k8s.io" in one.said())
    assert namespace.name in one.said()
    assert not await leads(one)
    namespace.grant(set(GRANTED))
    await led_by(one)


async def test_replicas_that_lead_by_the_row_and_by_the_lease_keep_each_other_out(
    tmp_path: Path, pods: Maker, namespace: Namespace, database: str
) -> None:
    old = SchedulerProcess(tmp_path / "old", "old", database=database)
    try:
        old.start()
        term = await led_by(old)
        new = pods("new")
        await until(lambda: "another replica leads" in new.said())
        assert namespace.lease() is None
        old.end(signal.SIGKILL)
        assert await led_by(new) == term + 1
        old.start()
        await until(lambda: (tmp_path / "old" / "scheduler.log").read_text().count("another replica leads") == 1)
        assert await leads(new)
        assert not await leads(old)
        new.end(signal.SIGKILL)
        assert await led_by(old) == term + 2
    finally:
        old.close()


async def test_a_leader_follows_the_database_when_that_has_a_later_one(
    pair: tuple[SchedulerPod, SchedulerPod], database: str
) -> None:
    term = await led_by(pair[0])
    engine = sa.create_engine(database)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE leader SET term = term + 5"))
    engine.dispose()
    await until(lambda: "there is a later leader" in pair[0].said())
    async with Client("ipv4:" + ",".join(one.address for one in pair)) as client:
        await client.leading()
        assert (await client.query.GetShardMap(query_pb2.GetShardMapRequest())).term > term + 5


async def test_outside_of_a_pod_the_choice_is_refused(tmp_path: Path, database: str) -> None:
    assert "KUBERNETES_SERVICE_HOST" not in os.environ
    one = SchedulerProcess(tmp_path, database=database, election="kubernetes")
    one.start()
    await until(lambda: one.process.poll() is not None)
    assert one.process.returncode == 2
    assert "works in a pod with a service account" in (tmp_path / "scheduler.log").read_text()
