"""Ownership under any order of joins, breaks, deaths, drains, late messages and leader changes.

Workers are modelled as they behave: each measures its lease from when it *sent* a renewal, messages travel for a while,
and a worker acts for a shard only while its own lease lasts. The leader never sees the model's truth.
"""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from services.common.clock import ManualClock
from services.common.marks import SHARDS
from services.scheduler.ownership import Epoch, Held, Key, NameTakenError, Ownership, ShardState

LEASE = 10.0
NAMES = ("a", "b", "c", "d")


@dataclass
class Worker:
    """One process: what it believes, by its own clock."""

    key: Key
    held: dict[int, Epoch] = field(default_factory=dict)
    lease_until: float = 0.0
    connected: bool = False
    alive: bool = True
    to_release: list[Held] = field(default_factory=list)


class Counters:
    """The durable counter: reserved ahead, so a new leader skips what the old one did not use."""

    def __init__(self) -> None:
        self.reserved = 0
        self.next = 1

    def new_leader(self) -> int:
        before = self.reserved
        self.next = self.reserved + 1
        self.reserved += 1_000_000
        return before

    def take(self) -> int:
        self.next += 1
        return self.next - 1


class Cluster(RuleBasedStateMachine):
    processes = Bundle("processes")

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.counters = Counters()
        self.term = 0
        self.workers: list[Worker] = []
        self.newest: dict[int, Epoch] = {}
        self.lead()

    def lead(self) -> None:
        self.term += 1
        self.ownership = Ownership(
            self.clock,
            term=self.term,
            lease_seconds=LEASE,
            next_counter=self.counters.take,
            granted_before=self.counters.new_leader(),
        )

    @rule(target=processes, name=st.sampled_from(NAMES))
    def process_starts(self, name: str) -> Worker:
        worker = Worker(Key(name, f"{name}-{len(self.workers)}"))
        self.workers.append(worker)
        return worker

    @rule(worker=processes, lost=st.booleans())
    def hello(self, worker: Worker, lost: bool) -> None:
        """`lost`: the scheduler heard it, the worker never gets the answer."""
        if not worker.alive or worker.connected:
            return
        sent = self.clock.lease()
        if sent >= worker.lease_until:
            worker.held.clear()
        claims = [Held(shard, epoch) for shard, epoch in worker.held.items()]
        try:
            kept = self.ownership.hello(worker.key, claims)
        except NameTakenError:
            assert any(w.connected and w.key.name == worker.key.name and w.key != worker.key for w in self.workers)
            return
        if lost:
            self.ownership.disconnected(worker.key)
            return
        worker.connected = True
        worker.lease_until = max(worker.lease_until, sent + LEASE)
        worker.held = dict(kept)
        worker.to_release = []
        for shard, epoch in kept:
            self.grown(shard, epoch, or_equal=True)
        self.plan()

    @rule(worker=processes, travel=st.floats(0, LEASE * 2))
    def renew(self, worker: Worker, travel: float) -> None:
        """The renewal is on its way for a while; meanwhile everything else stands still but time."""
        if not worker.connected:
            return
        sent = self.clock.lease()
        self.clock.advance(travel)
        if self.ownership.renewed(worker.key):
            worker.lease_until = max(worker.lease_until, sent + LEASE)
        else:
            worker.connected = False
        self.plan()

    @rule(worker=processes)
    def stream_breaks(self, worker: Worker) -> None:
        if worker.connected:
            worker.connected = False
            self.ownership.disconnected(worker.key)

    @rule(worker=consumes(processes))
    def process_dies(self, worker: Worker) -> None:
        if worker.connected:
            self.ownership.disconnected(worker.key)
        worker.connected = worker.alive = False
        worker.held.clear()

    @rule(worker=processes)
    def releases(self, worker: Worker) -> None:
        if worker.connected and worker.to_release:
            released, worker.to_release = worker.to_release, []
            for shard, _ in released:
                worker.held.pop(shard, None)
            self.ownership.released(worker.key, released)
            self.plan()

    @rule(worker=processes)
    def drains(self, worker: Worker) -> None:
        if worker.connected:
            self.ownership.drain(worker.key)
            self.plan()

    @rule(seconds=st.floats(0, LEASE * 1.5))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.plan()

    @rule(quarters=st.integers(1, 6))
    def time_passes_with_renewals(self, quarters: int) -> None:
        for _ in range(quarters):
            self.clock.advance(LEASE / 4)
            for worker in self.workers:
                if worker.connected and self.ownership.renewed(worker.key):
                    worker.lease_until = self.clock.lease() + LEASE
            self.plan()

    @rule()
    def everybody_who_lives_connects(self) -> None:
        for worker in self.workers:
            self.hello(worker, lost=False)

    @rule()
    def leader_changes(self) -> None:
        for worker in self.workers:
            worker.connected = False
        self.lead()

    def plan(self) -> None:
        plan = self.ownership.plan()
        for holder, _ in plan.ended:
            for worker in self.workers:
                if worker.key == holder.key:
                    worker.connected = False
        by_key = {worker.key: worker for worker in self.workers}
        for key, revoked in plan.revokes.items():
            by_key[key].to_release += revoked
        for key, granted in plan.grants.items():
            assert by_key[key].connected
            taken = {shard for shard, _ in granted}
            for other in self.workers:
                if other.alive and other.key != key and self.clock.lease() < other.lease_until:
                    assert not taken & set(other.held)
            for shard, epoch in granted:
                self.grown(shard, epoch)
                by_key[key].held[shard] = epoch

    def grown(self, shard: int, epoch: Epoch, *, or_equal: bool = False) -> None:
        newest = self.newest.get(shard, Epoch(0, 0))
        assert epoch > newest or (or_equal and epoch == newest)
        self.newest[shard] = epoch

    @invariant()
    def never_two_holders_within_their_leases(self) -> None:
        now = self.clock.lease()
        seen: set[int] = set()
        for worker in self.workers:
            if worker.alive and now < worker.lease_until:
                assert not seen & set(worker.held)
                seen |= set(worker.held)

    @invariant()
    def nobody_is_given_more_than_the_cap_once_releases_are_in(self) -> None:
        ready = [h for h in self.ownership.holders() if h.connected and not h.draining]
        for holder in ready:
            owned = [n for n in holder.shards if self.ownership.shards[n].state is ShardState.OWNED]
            before_plan = len(owned) <= -(-SHARDS // len(ready))
            assert before_plan or any(not w.connected for w in self.workers)

    def teardown(self) -> None:
        """Left alone with one live worker, every shard is owned in the end."""
        for worker in self.workers:
            if worker.connected:
                self.ownership.disconnected(worker.key)
        self.clock.advance(LEASE * 1.2)
        last = Key("last", "last")
        self.ownership.hello(last, [])
        self.ownership.plan()
        assert all(shard.state is ShardState.OWNED and shard.holder == last for shard in self.ownership.shards)


TestOwnership = Cluster.TestCase
TestOwnership.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("seed", range(5))
def test_long_random_lives_of_a_cluster_keep_every_invariant(seed: int) -> None:
    """Plain random walks: they reach overlapping leases far more often than generated examples do."""
    chance = random.Random(seed)
    for _ in range(30):
        cluster = Cluster()
        for _ in range(40):
            one_step(cluster, chance)
            cluster.never_two_holders_within_their_leases()
        cluster.teardown()


def one_step(cluster: Cluster, chance: random.Random) -> None:
    if not cluster.workers or chance.random() < 0.2:
        name = chance.choice(NAMES)
        cluster.workers.append(Worker(Key(name, f"{name}-{len(cluster.workers)}")))
        return
    worker = chance.choice(cluster.workers)
    steps = [
        lambda: cluster.hello(worker, lost=chance.random() < 0.5),
        lambda: cluster.renew(worker, travel=chance.uniform(0, 2 * LEASE)),
        lambda: cluster.stream_breaks(worker),
        lambda: cluster.releases(worker),
        lambda: cluster.drains(worker),
        lambda: cluster.time_passes(chance.uniform(0, 1.5 * LEASE)),
        lambda: cluster.time_passes_with_renewals(chance.randint(1, 6)),
        cluster.everybody_who_lives_connects,
        cluster.leader_changes,
    ]
    chance.choice(steps)()
