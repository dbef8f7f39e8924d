"""Who owns which of the 1,024 shards. Pure logic: no I/O, no loop, time comes from a clock that is passed in.

What is always true:

- **One holder.** A shard is granted only when it is UNOWNED, and it becomes UNOWNED only when its holder released it,
  said in Hello that it does not hold it, or when `PATIENCE` leases have passed since the leader last *received* a
  renewal from that holder. A holder counts its lease from when it *sent* the renewal, so it has stopped before
  anybody else is told to begin.
- **Epochs grow.** Every grant and every adoption takes the next counter of this leader's term; the counter is durable
  and grows over terms too. A claim with an epoch that this leader could not know about (a later term, a counter not
  yet given out) is refused.
- **A holder is a process**, (name, incarnation), not a name. A new process of the same name waits until the lease of
  the old one has ended, unless the old one is still connected: then it is refused.
- **A new leader does not know** who holds what: all shards are WAITING without holder until they are claimed in a
  Hello or `PATIENCE` leases have passed since it began. When no shard was ever granted there is nothing to wait for.
- **Little moves.** At most ceil(1024 / N) shards a worker, N being the connected, non-draining workers. A shard
  leaves a live worker only because that worker holds more than this, or drains. Free shards go to who held them last,
  else by rendezvous rank, to workers below the cap.

States of a shard: `owned` (its holder is connected), `revoking` (its holder was told to release it), `waiting` (for a
silent holder's lease, or a new leader's patience, to end), `unowned`.

The caller holds no lock: every method runs to its end on one event loop, and what it returns must be sent in the order
of the calls.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from services.common.clock import Clock
from services.common.marks import SHARDS

from .settings import PATIENCE


class NameTakenError(Exception):
    """Another incarnation of this worker is connected."""


class Epoch(NamedTuple):
    """The number of a grant; compares as (term, counter)."""

    term: int
    counter: int


class Held(NamedTuple):
    """A shard in somebody's hands."""

    shard: int
    epoch: Epoch


class ShardState(StrEnum):
    """Where a shard is in its life."""

    UNOWNED = "unowned"
    OWNED = "owned"
    REVOKING = "revoking"
    WAITING = "waiting"


class Key(NamedTuple):
    """One process of a worker."""

    name: str
    incarnation: str


_NOBODY = Key("", "")
_NEVER = Epoch(0, 0)


@dataclass(slots=True)
class Shard:
    """One shard. `holder` is who has it or may still act for it; `last` the name that had it last."""

    state: ShardState
    holder: Key = _NOBODY
    epoch: Epoch = _NEVER
    last: str = ""


@dataclass(slots=True)
class Holder:
    """One process of a worker, as long as it may hold something."""

    key: Key
    renewed_at: float
    connected: bool = True
    draining: bool = False
    shards: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Plan:
    """What the caller must tell the workers now, and whose leases have ended."""

    grants: dict[Key, list[Held]] = field(default_factory=dict)
    revokes: dict[Key, list[Held]] = field(default_factory=dict)
    ended: list[tuple[Holder, set[int]]] = field(default_factory=list)
    """Processes whose lease ended without a goodbye, with the shards they held: deaths, as far as anybody can tell."""
    short_of_epochs: bool = False
    """Shards stay unowned because no epoch is in reserve: reserve more and plan again."""


def _fair_shares(ready: list[Holder]) -> dict[Key, int]:
    """How many shards each may hold: all the same but for the remainder, which those keep that hold most already.

    So a worker that joins a hundred others gets its share too, though they are all within the rounded-up average.
    """
    if not ready:
        return {}
    least, remainder = divmod(SHARDS, len(ready))
    by_load = sorted(ready, key=lambda holder: (-len(holder.shards), holder.key))
    return {holder.key: least + (place < remainder) for place, holder in enumerate(by_load)}


class Ownership:
    """The map of one leader. `next_counter` gives a durable counter, or None when none is in reserve."""

    def __init__(
        self,
        clock: Clock,
        *,
        term: int,
        lease_seconds: float,
        next_counter: Callable[[], int | None],
        granted_before: int,
        patience_seconds: float | None = None,
    ) -> None:
        """`granted_before` is the highest counter that was ever given out, 0 for a new database.

        `patience_seconds` is how long a new leader waits for claims; by default PATIENCE leases (give more when an
        earlier leader used longer leases).
        """
        self._clock = clock
        self._term = term
        self._wait = PATIENCE * lease_seconds
        self._next_counter = next_counter
        self._highest = granted_before
        self._holders: dict[Key, Holder] = {}
        self._ranks: dict[str, list[bytes]] = {}
        self._ended: list[tuple[Holder, set[int]]] = []
        first = ShardState.WAITING if granted_before else ShardState.UNOWNED
        self.shards = [Shard(first) for _ in range(SHARDS)]
        patience = self._wait if patience_seconds is None else max(self._wait, patience_seconds)
        self._claims_until: float | None = clock.lease() + patience if granted_before else None

    @property
    def collecting_claims(self) -> bool:
        """Whether this new leader still waits for holders that it does not know."""
        return self._claims_until is not None

    def holder(self, key: Key) -> Holder | None:
        """The process, while it is connected or its lease may run."""
        return self._holders.get(key)

    def holders(self) -> list[Holder]:
        """All processes that are connected or may still hold something."""
        return list(self._holders.values())

    def hello(self, key: Key, held: Iterable[Held]) -> list[Held]:
        """A process connects (again) and says what it holds; answers with what it keeps, with the epochs from now on.

        A second stream of the same process replaces the first; the caller ends the first one without `disconnected`.
        Raises NameTakenError.
        """
        self._expire()
        for other in self._holders.values():
            if other.key.name == key.name and other.key != key and other.connected:
                raise NameTakenError(f"worker {key.name!r} is connected as incarnation {other.key.incarnation}")
        holder = self._holders.get(key)
        if holder is None:
            holder = self._holders[key] = Holder(key, self._clock.lease())
        holder.connected, holder.draining, holder.renewed_at = True, False, self._clock.lease()
        kept: list[Held] = []
        for number, epoch in {claim.shard: claim.epoch for claim in held}.items():
            if 0 <= number < SHARDS and self._keeps(holder, self.shards[number], epoch):
                kept.append(Held(number, self._take(holder, number, epoch)))
        # What the leader believed it to hold and it does not name was lost on the way to it (a grant in a broken
        # stream): it reads that stream no more, so nobody acts for these shards.
        for number in holder.shards - {kept_shard.shard for kept_shard in kept}:
            self._free(number)
        return [Held(number, self.shards[number].epoch) for number, _ in kept]

    def renewed(self, key: Key) -> bool:
        """A renewal arrived. False: it came too late, the lease has ended, the stream must be closed."""
        self._expire()
        holder = self._holders.get(key)
        if holder is None or not holder.connected:
            return False
        holder.renewed_at = self._clock.lease()
        return True

    def disconnected(self, key: Key) -> None:
        """The process's stream ended. Its lease runs on: its shards wait for it."""
        holder = self._holders.get(key)
        if holder is None:
            return
        holder.connected = False
        for number in holder.shards:
            self.shards[number].state = ShardState.WAITING
        if not holder.shards:
            del self._holders[key]

    def released(self, key: Key, released: Iterable[Held]) -> list[int]:
        """The process does not act for these shards any more; answers with those that are free by this."""
        freed = []
        for number, epoch in released:
            shard = self.shards[number] if 0 <= number < SHARDS else None
            # A release with an old epoch speaks of an earlier grant and must not end the present one.
            if shard is not None and shard.holder == key and shard.epoch == epoch:
                self._free(number)
                freed.append(number)
        return freed

    def drain(self, key: Key) -> None:
        """The process is about to stop: the next plan revokes all it has and grants it nothing."""
        if (holder := self._holders.get(key)) is not None:
            holder.draining = True

    def plan(self) -> Plan:
        """Ends leases that are over, then decides what to revoke and what to grant. Idempotent."""
        self._expire()
        plan = Plan(ended=self._ended)
        self._ended = []
        ready = [holder for holder in self._holders.values() if holder.connected and not holder.draining]
        caps = _fair_shares(ready)
        if len(self._ranks) > 2 * len(self._holders) + 16:
            self._ranks.clear()  # names of pods that went; computed again when asked for
        for holder in self._holders.values():
            if holder.connected:
                self._revoke(holder, caps, plan)
        self._grant(ready, caps, plan)
        return plan

    def deadline(self) -> float | None:
        """When (on the lease clock) the next lease ends, or a new leader's patience; None: nothing to wait for."""
        times = [holder.renewed_at + self._wait for holder in self._holders.values()]
        if self._claims_until is not None:
            times.append(self._claims_until)
        return min(times, default=None)

    def holds(self, key: Key, number: int) -> bool:
        """Whether this process has the shard now (owned or being revoked)."""
        shard = self.shards[number]
        return shard.holder == key and shard.state in (ShardState.OWNED, ShardState.REVOKING)

    def _keeps(self, holder: Holder, shard: Shard, epoch: Epoch) -> bool:
        if epoch.term > self._term or epoch.counter > self._highest:
            return False
        if shard.holder == holder.key:
            return epoch == shard.epoch
        if shard.holder != _NOBODY:
            return False
        # Nobody's: either this leader has not learned yet who holds it, or it is free since that very grant ended.
        # A second claimant of a shard that was adopted already finds a holder above, and is refused.
        return shard.state is ShardState.WAITING or shard.epoch == epoch

    def _take(self, holder: Holder, number: int, claimed: Epoch) -> Epoch:
        shard = self.shards[number]
        if shard.holder == holder.key:
            # A revoke may have been lost with the old stream; as OWNED it is planned, and sent, again.
            shard.state = ShardState.OWNED
            return shard.epoch
        counter = self._next_counter()
        # Without a counter in reserve the claimed epoch stays in force: it is the newest of its shard as far as known.
        epoch = claimed if counter is None else Epoch(self._term, counter)
        self._highest = max(self._highest, epoch.counter)
        self._give(holder, number, epoch)
        return epoch

    def _give(self, holder: Holder, number: int, epoch: Epoch) -> None:
        shard = self.shards[number]
        shard.state, shard.holder, shard.epoch, shard.last = ShardState.OWNED, holder.key, epoch, holder.key.name
        holder.shards.add(number)

    def _free(self, number: int) -> None:
        shard = self.shards[number]
        if (holder := self._holders.get(shard.holder)) is not None:
            holder.shards.discard(number)
            if not holder.shards and not holder.connected:
                del self._holders[holder.key]
        shard.state, shard.holder = ShardState.UNOWNED, _NOBODY

    def _expire(self) -> None:
        now = self._clock.lease()
        for holder in [h for h in self._holders.values() if h.renewed_at + self._wait <= now]:
            shards = set(holder.shards)
            holder.connected = False
            for number in shards:
                self._free(number)
            self._holders.pop(holder.key, None)
            self._ended.append((holder, shards))
        if self._claims_until is not None and self._claims_until <= now:
            self._claims_until = None
            for shard in self.shards:
                if shard.state is ShardState.WAITING and shard.holder == _NOBODY:
                    shard.state = ShardState.UNOWNED

    def _revoke(self, holder: Holder, caps: dict[Key, int], plan: Plan) -> None:
        owned = [number for number in holder.shards if self.shards[number].state is ShardState.OWNED]
        surplus = len(owned) - caps.get(holder.key, 0)
        if surplus <= 0:
            return
        below = [key.name for key, cap in caps.items() if len(self._holders[key].shards) < cap] or [holder.key.name]
        # Those go that somebody below the cap ranks highest for, so that they stay where they go.
        owned.sort(key=lambda number: (max(self._rank(name)[number] for name in below), number), reverse=True)
        for number in owned[:surplus]:
            self.shards[number].state = ShardState.REVOKING
            plan.revokes.setdefault(holder.key, []).append(Held(number, self.shards[number].epoch))

    def _grant(self, ready: list[Holder], caps: dict[Key, int], plan: Plan) -> None:
        room = {holder.key.name: holder for holder in ready if len(holder.shards) < caps[holder.key]}
        for number, shard in enumerate(self.shards):
            if shard.state is not ShardState.UNOWNED or not room:
                continue
            counter = self._next_counter()
            if counter is None:
                plan.short_of_epochs = True
                return
            self._highest = max(self._highest, counter)
            name = shard.last if shard.last in room else max(room, key=lambda n: self._rank(n)[number])
            holder = room[name]
            epoch = Epoch(self._term, counter)
            self._give(holder, number, epoch)
            plan.grants.setdefault(holder.key, []).append(Held(number, epoch))
            if len(holder.shards) >= caps[holder.key]:
                del room[name]

    def _rank(self, name: str) -> list[bytes]:
        ranks = self._ranks.get(name)
        if ranks is None:
            ranks = [hashlib.sha256(f"{name}|{number}".encode()).digest()[:8] for number in range(SHARDS)]
            self._ranks[name] = ranks
        return ranks
