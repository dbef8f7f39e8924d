"""One process as one of the scheduler's replicas: stand by, lead, and stand by again.

Servicers ask for `leading`; while another replica leads they answer UNAVAILABLE and health says NOT_SERVING, so that
clients and Kubernetes dial the leader. A leadership that cannot prove itself in time ends here, whatever the reason:
lost to another replica, a database that fails, a lease that ran out while this process was paused.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NoReturn

import grpc.aio
from sqlalchemy.exc import SQLAlchemyError

from services.common import logging
from services.common.clock import Clock

from .database import DatabaseAwayError
from .election import ElectionError, LeaderElection
from .leader import Leader
from .settings import SchedulerSettings
from .store import DeposedError, Store, Term

log = logging.get(__name__)


class Replica:
    """Whether this process leads, and the leadership while it does."""

    def __init__(
        self,
        settings: SchedulerSettings,
        store: Store,
        election: LeaderElection,
        clock: Clock,
        new_id: Callable[[], str],
        serving: Callable[[bool], Awaitable[None]],
    ) -> None:
        """`serving` is told when the replica begins and ceases to lead."""
        self._settings = settings
        self._store = store
        self._election = election
        self._clock = clock
        self._new_id = new_id
        self._serving = serving
        self._leader: Leader | None = None

    @property
    def leader(self) -> Leader | None:
        """The leadership, None while this replica stands by or its lease has run out."""
        if self._leader is None or self._clock.lease() >= self._election.valid_until():
            return None
        return self._leader

    async def leading(self, context: "grpc.aio.ServicerContext[object, object]") -> Leader:
        """The leadership, for a call; aborts the call with UNAVAILABLE while there is none."""
        leader = self.leader
        if leader is None:
            await standby(context)
        return leader

    async def run(self) -> None:
        """Stand by and lead until cancelled; then resign."""
        try:
            while True:
                term = await self._stand_by()
                try:
                    await self._lead(term)
                except DeposedError as error:
                    log.warning("leads no longer", reason=str(error))
                except SQLAlchemyError as error:
                    log.error("leads no longer: the database failed", error=str(error))  # noqa: TRY400 - a sentence
        finally:
            self._leader = None
            await asyncio.shield(self._resign())

    async def _stand_by(self) -> Term:
        said = ""
        while True:
            try:
                if (term := await self._acquire()) is not None:
                    return term
            except (ElectionError, DatabaseAwayError) as error:
                if str(error) != said:
                    log.warning("standing by", reason=str(error))
                said = str(error)
            else:
                if said != "another":
                    log.info("standing by", reason="another replica leads")
                said = "another"
            await asyncio.sleep(self._election.interval())

    async def _acquire(self) -> Term | None:
        try:
            return await self._election.acquire()
        except SQLAlchemyError as error:
            failed = str(error)
        # It may have come back empty, or as an older backup has it. SettingsError, which ends the process, when it
        # cannot be used any longer.
        await self._store.open()
        try:
            term = await self._election.acquire()
        except SQLAlchemyError as error:
            raise DatabaseAwayError(str(error)) from error
        log.warning("the database had to be opened anew", error=failed)
        return term

    async def _lead(self, term: Term) -> None:
        # Renewed from the first moment: what the database keeps may take long to read.
        renewing = asyncio.ensure_future(self._renew())
        beginning = asyncio.ensure_future(Leader.begin(self._settings, self._store, self._clock, self._new_id, term))
        jobs: list[asyncio.Future[Any]] = [renewing, beginning]
        try:
            await _first(jobs)
            leader = beginning.result()
            jobs = [renewing, asyncio.ensure_future(leader.run()), asyncio.ensure_future(self._store.until_lost())]
            self._leader = leader
            await self._serving(True)
            await _first(jobs)
        finally:
            # No call finds this leader from here on, whatever ended it.
            self._leader = None
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            await self._serving(False)

    async def _renew(self) -> NoReturn:
        """Renew until the lease has run out; then whatever this leader does ends, not only what is asked of it."""
        while True:
            await asyncio.sleep(max(0.0, min(self._election.interval(), self._left())))
            if self._left() <= 0:
                raise DeposedError("the leader's lease ran out before it could be renewed")
            try:
                # What holds a leader up must not hold it in office.
                async with asyncio.timeout(self._left()):
                    await self._election.renew()
            except (ElectionError, SQLAlchemyError, TimeoutError) as error:
                log.warning("cannot renew leadership", error=str(error) or "no answer in time")

    def _left(self) -> float:
        return self._election.valid_until() - self._clock.lease()

    async def _resign(self) -> None:
        try:
            async with asyncio.timeout(self._settings.leader_lease_seconds):
                await self._election.resign()
        except (ElectionError, SQLAlchemyError, TimeoutError) as error:
            log.warning("could not resign: the next leader waits", error=str(error) or "no answer in time")


async def _first(jobs: Iterable["asyncio.Future[Any]"]) -> None:
    """Wait until one of the jobs ends. Raises what it ended with."""
    done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
    for job in done:
        job.result()


async def standby(context: "grpc.aio.ServicerContext[object, object]") -> NoReturn:
    """End a call: this replica does not lead."""
    await context.abort(grpc.StatusCode.UNAVAILABLE, "this replica does not lead")
    raise AssertionError("abort does not return")
