"""One process as one of the scheduler's replicas: stand by, lead, and stand by again.

Servicers ask for `leading`; while another replica leads they answer UNAVAILABLE and health says NOT_SERVING, so that
clients and Kubernetes dial the leader. A leadership that cannot prove itself in time ends here, whatever the reason:
lost to another replica, a database that fails, a lease that ran out while this process was paused.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import grpc.aio
from sqlalchemy.exc import SQLAlchemyError

from services.common import logging
from services.common.clock import Clock

from .election import LeaderElection
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
            if self._leader is not None:
                self._leader = None
                await asyncio.shield(self._election.resign())

    async def _stand_by(self) -> Term:
        waited = False
        while True:
            try:
                if (term := await self._election.acquire()) is not None:
                    return term
            except SQLAlchemyError as error:
                log.warning("cannot ask for leadership", error=str(error))
            if not waited:
                log.info("standing by: another replica leads")
                waited = True
            await asyncio.sleep(self._election.interval())

    async def _lead(self, term: Term) -> None:
        leader = await Leader.begin(self._settings, self._store, self._clock, self._new_id, term)
        jobs = [asyncio.ensure_future(leader.run()), asyncio.ensure_future(self._renew())]
        self._leader = leader
        await self._serving(True)
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            # No call finds this leader from here on, whatever ended it.
            self._leader = None
            for job in done:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            await self._serving(False)

    async def _renew(self) -> NoReturn:
        while True:
            await asyncio.sleep(self._election.interval())
            try:
                await self._election.renew()
            except SQLAlchemyError as error:
                log.warning("cannot renew leadership", error=str(error))
            if self._clock.lease() >= self._election.valid_until():
                raise DeposedError("the leader's lease ran out before it could be renewed")


async def standby(context: "grpc.aio.ServicerContext[object, object]") -> NoReturn:
    """End a call: this replica does not lead."""
    await context.abort(grpc.StatusCode.UNAVAILABLE, "this replica does not lead")
    raise AssertionError("abort does not return")
