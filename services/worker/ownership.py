"""Which shards this worker owns, and whether it may act: grants, epochs, and the lease.

The lease is measured from the moment a renewal was *sent*, on a clock that counts suspended time. A worker whose lease
has ended acts for nothing, though it still holds its shards and names them in its next Hello.
"""

from dataclasses import dataclass

from astara.scheduler.v1 import work_pb2 as work

from services.common.clock import Clock


@dataclass(frozen=True, slots=True, order=True)
class Epoch:
    """Compared as (term, counter)."""

    term: int
    counter: int


class Ownership:
    """Shards held, their epochs, and the lease."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._epochs: dict[int, Epoch] = {}
        self._sent: dict[int, float] = {}
        self._nonce = 0
        self._lease_seconds = 0.0
        self._lease_ends = 0.0

    @property
    def lease_seconds(self) -> float:
        """Length of the lease; 0 before the first Welcome."""
        return self._lease_seconds

    @property
    def shards(self) -> list[int]:
        """Shards held, sorted."""
        return sorted(self._epochs)

    def held(self) -> list[work.HeldShard]:
        """For Hello and Released."""
        return [work.HeldShard(shard=s, term=e.term, counter=e.counter) for s, e in sorted(self._epochs.items())]

    def epoch(self, shard: int) -> Epoch | None:
        """The epoch of a shard, when it is held."""
        return self._epochs.get(shard)

    def may_act(self, shard: int) -> bool:
        """Whether this worker may begin a step for a shard now."""
        return shard in self._epochs and self._clock.lease() < self._lease_ends

    def lease_remaining(self) -> float:
        """Seconds until the lease ends; negative when it has."""
        return self._lease_ends - self._clock.lease()

    def grant(self, shard: work.HeldShard) -> bool:
        """Take a shard; False when a newer epoch of it is held already."""
        epoch = Epoch(shard.term, shard.counter)
        known = self._epochs.get(shard.shard)
        if known is not None and known > epoch:
            return False
        self._epochs[shard.shard] = epoch
        return True

    def drop(self, shard: int) -> None:
        """The shard is no longer held."""
        self._epochs.pop(shard, None)

    def welcome(self, lease_milliseconds: int, hello_sent: float) -> None:
        """The lease begins with the Hello, from the moment that it was sent."""
        self._lease_seconds = lease_milliseconds / 1000.0
        self._sent.clear()
        self._lease_ends = max(self._lease_ends, hello_sent + self._lease_seconds)

    def renewal(self) -> work.LeaseRenewal:
        """The next renewal, to be sent at once."""
        self._nonce += 1
        self._sent[self._nonce] = self._clock.lease()
        return work.LeaseRenewal(nonce=self._nonce)

    def renewed(self, nonce: int) -> None:
        """A renewal was answered."""
        sent = self._sent.pop(nonce, None)
        if sent is not None:
            self._lease_ends = max(self._lease_ends, sent + self._lease_seconds)
        # Older ones that were never answered are worth nothing now.
        self._sent = {number: at for number, at in self._sent.items() if number > nonce}
