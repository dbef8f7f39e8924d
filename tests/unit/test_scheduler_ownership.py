"""Who gets which shards, by the situations that operators know."""

from services.common.clock import ManualClock
from services.common.marks import SHARDS
from services.scheduler.ownership import Epoch, Held, Key, Ownership, Plan, ShardState

LEASE = 10.0


class Situation:
    def __init__(self, granted_before: int = 0, term: int = 1) -> None:
        self.clock = ManualClock()
        self.counter = granted_before
        self.ownership = Ownership(
            self.clock, term=term, lease_seconds=LEASE, next_counter=self.count, granted_before=granted_before
        )

    def count(self) -> int:
        self.counter += 1
        return self.counter

    def join(self, name: str, held: list[Held] | None = None) -> list[Held]:
        return self.ownership.hello(Key(name, f"{name}-1"), held or [])

    def settle(self) -> Plan:
        """Plan and release until nothing moves; answers with all grants."""
        all_grants = Plan()
        while (plan := self.ownership.plan()).grants or plan.revokes:
            for key, granted in plan.grants.items():
                all_grants.grants.setdefault(key, []).extend(granted)
            for key, revoked in plan.revokes.items():
                all_grants.revokes.setdefault(key, []).extend(revoked)
                self.ownership.released(key, revoked)
        return all_grants

    def map(self) -> list[str]:
        return [shard.holder.name for shard in self.ownership.shards]


def test_the_first_worker_of_a_new_installation_gets_everything_at_once() -> None:
    situation = Situation()
    situation.join("a")
    situation.settle()
    assert situation.map() == ["a"] * SHARDS


def test_a_joining_worker_takes_its_part_and_nothing_else_moves() -> None:
    situation = Situation()
    for count, name in enumerate("abcdefg", start=1):
        before = situation.map()
        situation.join(name)
        situation.settle()
        moved = [n for n in range(SHARDS) if situation.map()[n] != before[n]]
        assert len(moved) <= -(-SHARDS // count)
        assert all(situation.map()[n] == name for n in moved)
        assert max(situation.map().count(worker) for worker in set(situation.map())) <= -(-SHARDS // count)


def test_a_draining_workers_shards_go_on_and_no_others_move() -> None:
    situation = Situation()
    for name in "abc":
        situation.join(name)
        situation.settle()
    before = situation.map()
    situation.ownership.drain(Key("b", "b-1"))
    situation.settle()
    after = situation.map()
    assert "b" not in after
    assert all(after[n] == before[n] for n in range(SHARDS) if before[n] != "b")


def test_a_silent_workers_shards_wait_for_eleven_tenths_of_its_lease() -> None:
    situation = Situation()
    situation.join("a")
    situation.settle()
    situation.ownership.disconnected(Key("a", "a-1"))
    situation.join("b")
    situation.clock.advance(LEASE * 1.09)
    situation.ownership.renewed(Key("b", "b-1"))
    assert not situation.settle().grants
    situation.clock.advance(LEASE * 0.02)
    plan = situation.ownership.plan()
    assert [holder.key.name for holder, _ in plan.ended] == ["a"]
    assert situation.map() == ["b"] * SHARDS


def test_a_new_process_of_a_dead_worker_gets_its_shards_back_after_the_old_lease() -> None:
    situation = Situation()
    for name in "ab":
        situation.join(name)
        situation.settle()
    before = situation.map()
    situation.ownership.disconnected(Key("a", "a-1"))
    assert situation.ownership.hello(Key("a", "a-2"), []) == []
    assert not situation.settle().grants
    situation.clock.advance(LEASE * 1.05)
    assert situation.ownership.renewed(Key("a", "a-2"))
    assert situation.ownership.renewed(Key("b", "b-1"))
    situation.clock.advance(LEASE * 0.1)
    situation.settle()
    assert situation.map() == before


def test_a_new_leader_adopts_claims_and_grants_the_rest_only_after_waiting() -> None:
    situation = Situation(granted_before=5000, term=2)
    claims = [Held(n, Epoch(1, 100 + n)) for n in range(400)]
    kept = situation.join("a", claims)
    assert [held.shard for held in kept] == list(range(400))
    assert all(held.epoch > Epoch(1, 5000) for held in kept)
    assert not situation.settle().grants
    assert situation.join("b", [Held(7, Epoch(1, 4999)), Held(500, Epoch(1, 200))]) == [
        Held(500, situation.ownership.shards[500].epoch)
    ]
    situation.clock.advance(LEASE * 1.05)
    for name in "ab":
        situation.ownership.renewed(Key(name, f"{name}-1"))
    situation.clock.advance(LEASE * 0.1)
    situation.settle()
    assert set(situation.map()) == {"a", "b"}
    assert all(situation.map()[n] == "a" for n in range(400) if n != 500)


def test_claims_from_a_later_leader_are_refused() -> None:
    situation = Situation(granted_before=5000, term=2)
    assert situation.join("a", [Held(1, Epoch(3, 10)), Held(2, Epoch(1, 5001)), Held(4096, Epoch(1, 1))]) == []


def test_a_grant_lost_with_its_stream_is_granted_again_with_a_higher_epoch() -> None:
    situation = Situation()
    situation.join("a")
    lost = situation.settle().grants[Key("a", "a-1")]
    situation.ownership.disconnected(Key("a", "a-1"))
    assert situation.join("a") == []
    again = situation.settle().grants[Key("a", "a-1")]
    assert {held.shard for held in again} == {held.shard for held in lost}
    assert min(held.epoch for held in again) > max(held.epoch for held in lost)


def test_a_revoke_lost_with_its_stream_is_sent_again() -> None:
    situation = Situation()
    situation.join("a")
    granted = situation.settle().grants[Key("a", "a-1")]
    situation.join("b")
    first = situation.ownership.plan().revokes[Key("a", "a-1")]
    situation.ownership.disconnected(Key("a", "a-1"))
    assert len(situation.join("a", granted)) == SHARDS
    assert len(situation.ownership.plan().revokes[Key("a", "a-1")]) == len(first)


def test_an_old_release_does_not_end_a_newer_grant() -> None:
    situation = Situation()
    situation.join("a")
    old = situation.settle().grants[Key("a", "a-1")][:1]
    situation.ownership.released(Key("a", "a-1"), old)
    situation.settle()
    assert situation.ownership.released(Key("a", "a-1"), old) == []
    assert situation.ownership.shards[old[0].shard].state is ShardState.OWNED
