"""Who leads. A leader has a term; terms only grow, and every write is fenced by it (`store.py`).

The term comes from the database whoever leads by what: the row of the leader is what fences writes. `DatabaseElection`
leads by that row's expiry too; `lease.KubernetesElection` leads by a Lease, and takes the row when it has that.

With `DatabaseElection` the same holder takes over at once: it is the same place come back. That is sound because a
holder's name contains the address it listens on, and the address is bound before the first `acquire`: two live
processes cannot have the same.
"""

from typing import Protocol

from services.common.clock import Clock

from .store import Store, Term


class ElectionError(Exception):
    """Who leads cannot be found out, or not be changed, now; the text says what stands in the way."""


class LeaderElection(Protocol):
    """The leadership of a deployment. All calls may raise ElectionError, and the database's errors."""

    async def acquire(self) -> Term | None:
        """Try to become leader; None while another one leads."""
        ...

    async def renew(self) -> None:
        """Stay leader. Raises DeposedError."""
        ...

    async def resign(self) -> None:
        """Leave, so that the next leader need not wait; nothing when this replica does not lead."""
        ...

    def valid_until(self) -> float:
        """Until when (on the lease clock) this replica may act as leader."""
        ...

    def interval(self) -> float:
        """Seconds between two calls of acquire or renew."""
        ...


class DatabaseElection:
    """Leadership by a row with an expiry."""

    def __init__(self, store: Store, clock: Clock, *, holder: str, ttl: float, worker_lease_seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._ttl = ttl
        self._worker_lease_seconds = worker_lease_seconds
        self._valid_until = 0.0

    async def acquire(self) -> Term | None:
        """Try to become leader; None while another one leads."""
        asked = self._clock.lease()
        term = await self._store.acquire(
            self._holder, now=self._clock.wall(), ttl=self._ttl, lease_seconds=self._worker_lease_seconds
        )
        if term is not None:
            self._valid_until = asked + self._ttl
        return term

    async def renew(self) -> None:
        """Stay leader. Raises DeposedError."""
        asked = self._clock.lease()
        await self._store.renew(now=self._clock.wall(), ttl=self._ttl)
        self._valid_until = asked + self._ttl

    async def resign(self) -> None:
        """Leave, so that the next leader need not wait."""
        await self._store.resign()

    def valid_until(self) -> float:
        """Until when this replica may act; counted from before the row was written."""
        return self._valid_until

    def interval(self) -> float:
        """A third of the row's life."""
        return self._ttl / 3
