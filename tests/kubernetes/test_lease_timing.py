"""When a Lease of a real API server may be taken, on clocks that the test owns and that nobody compares."""

from collections.abc import AsyncIterator, Callable

import pytest
from cluster_running import LEASE, Cluster, Namespace
from kubernetes_asyncio.client import ApiClient, Configuration, CoordinationV1Api, V1Lease, V1LeaseSpec
from mariadb_running import MariaDb

from services.common.clock import ManualClock
from services.scheduler.database import Database
from services.scheduler.election import ElectionError
from services.scheduler.lease import KubernetesElection, LeaseObject
from services.scheduler.settings import PATIENCE
from services.scheduler.store import DeposedError, Store

TTL = 6.0


class Place:
    """One replica: a clock that agrees with nobody's, a store, an election."""

    def __init__(self, api: ApiClient, namespace: str, url: str, name: str, start: float) -> None:
        self.clock = ManualClock(start)
        self.store = Store(Database(url, patience=TTL))
        self.lease = SlowLease(CoordinationV1Api(api), namespace, LEASE, patience=10.0)
        self.lease.clock = self.clock
        self.election = KubernetesElection(
            self.lease, self.store, self.clock, identity=name, ttl=TTL, worker_lease_seconds=5.0
        )

    async def acquired(self) -> bool:
        return await self.election.acquire() is not None


class SlowLease(LeaseObject):
    """The real one, whose answers take a while on the replica's clock."""

    clock: ManualClock
    takes = 0.0
    fails = False

    async def write(self, spec: V1LeaseSpec, over: V1Lease | None) -> V1Lease | None:
        written = await super().write(spec, over)
        self.clock.advance(self.takes)
        if self.fails:
            raise ElectionError("the answer was lost")
        return written


Maker = Callable[[str, float], Place]


@pytest.fixture
def namespace(cluster: Cluster) -> Namespace:
    return Namespace(cluster)


@pytest.fixture
async def place(namespace: Namespace, mariadb: MariaDb) -> AsyncIterator[Maker]:
    """Makes replicas of one deployment."""
    configuration = Configuration()
    configuration.host = "https://127.0.0.1:16443"
    pki = namespace.cluster.pki
    configuration.ssl_ca_cert = str(pki / "ca.crt")
    configuration.api_key["BearerToken"] = f"Bearer {namespace.token}"
    url = mariadb.new_database()
    made: list[Place] = []
    async with ApiClient(configuration) as api:

        def make(name: str, start: float) -> Place:
            made.append(Place(api, namespace.name, url, name, start))
            return made[-1]

        yield make
        for one in made:
            await one.store.close()


@pytest.fixture
async def two(place: Maker) -> tuple[Place, Place]:
    """The first leads; the second's clock is weeks behind, and it has seen the Lease once."""
    one, other = place("one", 9_000_000.0), place("other", 5_000_000.0)
    await one.store.open()
    await other.store.open()
    assert await one.acquired()
    assert not await other.acquired()
    return one, other


async def test_a_standby_waits_on_its_own_clock_longer_than_a_leader_may_act(two: tuple[Place, Place]) -> None:
    one, other = two
    assert one.election.valid_until() == one.clock.lease() + TTL
    other.clock.advance(PATIENCE * TTL - 0.001)
    assert not await other.acquired()
    other.clock.advance(0.002)
    assert await other.acquired()
    with pytest.raises(DeposedError, match="is held by other"):
        await one.election.renew()


async def test_a_renewal_that_the_standby_sees_begins_its_wait_anew(two: tuple[Place, Place]) -> None:
    one, other = two
    other.clock.advance(PATIENCE * TTL - 0.1)
    one.clock.advance(1.0)
    await one.election.renew()
    other.clock.advance(0.2)
    assert not await other.acquired()
    other.clock.advance(PATIENCE * TTL - 0.1)
    assert not await other.acquired()
    other.clock.advance(0.2)
    assert await other.acquired()


async def test_a_leader_may_act_from_when_it_sent_the_renewal_not_from_its_answer(two: tuple[Place, Place]) -> None:
    one, _ = two
    one.clock.advance(2.0)
    sent = one.clock.lease()
    one.lease.takes = 1.5
    await one.election.renew()
    assert one.election.valid_until() == sent + TTL


async def test_a_renewal_whose_answer_is_lost_prolongs_nothing_and_the_next_one_finds_its_own_hand(
    two: tuple[Place, Place],
) -> None:
    one, _ = two
    before = one.election.valid_until()
    one.clock.advance(1.0)
    one.lease.fails = True
    with pytest.raises(ElectionError):
        await one.election.renew()
    assert one.election.valid_until() == before
    one.lease.fails = False
    await one.election.renew()
    assert one.election.valid_until() == one.clock.lease() + TTL


async def test_a_lease_that_was_deleted_is_nobodys_until_its_leader_must_have_stopped(
    two: tuple[Place, Place], namespace: Namespace
) -> None:
    one, other = two
    term = (await one.store.leader()).term
    namespace.delete_lease()
    assert not await other.acquired()
    other.clock.advance(PATIENCE * TTL - 0.001)
    assert not await other.acquired()
    assert namespace.lease() is None
    other.clock.advance(0.002)
    assert await other.acquired()
    assert (await other.store.leader()).term == term + 1
    with pytest.raises(DeposedError):
        await one.election.renew()


async def test_a_lease_that_was_let_go_is_taken_at_the_next_look(
    two: tuple[Place, Place], namespace: Namespace
) -> None:
    one, other = two
    await one.election.resign()
    assert one.election.valid_until() == 0.0
    assert namespace.lease()["holderIdentity"] == ""
    assert await other.acquired()
    assert namespace.lease()["leaseTransitions"] == 2


async def test_who_overtakes_between_the_look_and_the_lease_leads_alone(
    two: tuple[Place, Place], namespace: Namespace
) -> None:
    one, other = two
    await one.election.resign()
    seen = await one.store.leader()
    # The other one takes everything after the first has read the row, and lets the Lease go without the row.
    assert await other.acquired()
    assert await one.store.acquire("one", now=0.0, ttl=TTL, lease_seconds=5.0, over=seen) is None
    namespace.patch_lease({"spec": {"holderIdentity": ""}})
    assert not await one.acquired()
    await other.election.renew()
    assert namespace.lease()["holderIdentity"] == "other"
