"""One leadership: everything that the leader of a term knows, wired together, and the loops that drive it.

It begins with what the database keeps and what workers and health say again; it ends, as a whole, when the term does or
when the database fails: nothing of it is reused. All of it runs on one event loop. Methods without `await` are atomic;
where one spans an `await`, a comment says what may have changed.
"""

import asyncio
from collections.abc import Callable, Iterable

from astara.event.v1 import event_pb2
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import work_pb2
from sqlalchemy.exc import SQLAlchemyError

from services.common import logging
from services.common.clock import Clock
from services.common.marks import SHARDS

from .census import Census
from .commands import IdTakenError, InDebugModeError, NotKnownYetError, RefusedError, UnknownTargetError
from .delivery import Destination, Journal, Outbox, Publisher, Shelf, come_back
from .dispatch import Dispatch
from .flags import Flags
from .hints import DELETE
from .index import Index, Record, shard_of
from .journal import EpochReserve, HistoryBuffer, write_marks
from .metrics import (
    ADOPTED,
    GRANTED,
    LATE,
    LEADING,
    LEASES_ENDED,
    MARKS,
    QUARANTINED,
    RESOURCES,
    REVOKED,
    SHARDS_BY_STATE,
    STATUS,
    TERM,
    UNMATCHED,
    UNMATCHED_EXPIRED,
    WORKERS,
)
from .operations import Operations
from .ownership import Epoch, Held, Holder, Key, NameTakenError, Ownership, ShardState
from .quarantine import Quarantine
from .roster import Roster
from .sessions import Session
from .settings import PATIENCE, SchedulerSettings
from .store import DeposedError, Kept, Store, Term
from .unmatched import Unmatched
from .view import View

log = logging.get(__name__)

_GRANT = 1000
_GATHER_SECONDS = 0.01
_UPKEEP_SECONDS = 0.25
_PRUNE_SECONDS = 60.0


class Leader:
    """The scheduler while it leads. Make it with `begin`, drive it with `run`."""

    def __init__(
        self,
        settings: SchedulerSettings,
        store: Store,
        clock: Clock,
        new_id: Callable[[], str],
        term: Term,
        kept: Kept,
        epochs: EpochReserve,
    ) -> None:
        self.settings = settings
        self.store = store
        self.clock = clock
        self.term = term.term
        self._epochs = epochs
        self._plan_now = asyncio.Event()
        self._journal_now = asyncio.Event()
        self._tasks: set[asyncio.Future[None]] = set()
        self._settled = False
        self.ended = asyncio.Event()
        """Set when this leadership is over: streams of producers and watchers end then."""
        self.sessions: dict[Key, Session] = {}
        self.index = Index(settings.announced_limit)
        self.flags = Flags(kept.flags)
        self.history = HistoryBuffer(store, clock, settings)
        self.quarantine = Quarantine(kept.deaths, settings.quarantine_deaths)
        self.view = View(self.index, self._enrich)
        self.journal = Journal(kept.next_mark, len(kept.marks), settings.mark_limit, self._journal_now.set)
        self._shelves = [Shelf(self.journal) for _ in range(SHARDS)]
        self._routes: list[Destination] = list(self._shelves)
        self._unmatched = Unmatched(clock, seconds=settings.unmatched_seconds, limit=settings.unmatched_limit)
        self.dispatch = Dispatch(self.index, self._unmatched, self._routes, clock, self._command)
        self.dispatch.withheld = self.quarantine.all()
        self.roster = Roster(settings, clock)
        self.census = Census(self.index, self.view, self.dispatch, clock, self._plan_now.set)
        self.ownership = Ownership(
            clock,
            term=term.term,
            lease_seconds=settings.lease_seconds,
            next_counter=epochs.take,
            granted_before=term.granted_before,
            patience_seconds=PATIENCE * max(settings.lease_seconds, term.earlier_lease_seconds),
        )
        self.operations = Operations(
            store, self.index, self.flags, self, clock, new_id, kept.operations, kept.overrides
        )
        for row, hint in kept.marks:
            self.index.name(hint.resource_id, hint.tenant_id, hint.kind).deleted |= bool(hint.actions & DELETE)
            self._shelves[shard_of(hint.tenant_id)].put(hint, [row])
        for operation in kept.operations:
            for item in operation.resources.values():
                self.index.name(item.resource_id, item.tenant_id, item.kind)

    @classmethod
    async def begin(
        cls, settings: SchedulerSettings, store: Store, clock: Clock, new_id: Callable[[], str], term: Term
    ) -> "Leader":
        """Read what the database keeps. Raises DeposedError."""
        kept = await store.load()
        epochs = EpochReserve(store)
        await epochs.fill()
        leader = cls(settings, store, clock, new_id, term, kept, epochs)
        log.info(
            "leading", term=term.term, operations=len(kept.operations), flags=len(kept.flags), marks=len(kept.marks)
        )
        return leader

    async def run(self) -> None:
        """Drive the leadership until it is cancelled. Raises DeposedError, or the database's error."""
        LEADING.set(1)
        TERM.set(self.term)
        jobs = [asyncio.ensure_future(job) for job in (self._plans(), self._journals(), self._upkeep(), self._prunes())]
        try:
            await asyncio.gather(*jobs)
        finally:
            LEADING.set(0)
            self.ended.set()
            self.view.wake()
            for job in (*jobs, *self._tasks):
                job.cancel()
            self.operations.close()
            for session in list(self.sessions.values()):
                session.end("this replica leads no longer")

    # --- workers: called by the Work stream ---

    async def hello(self, hello: work_pb2.Hello) -> Session:
        """A worker connects. The first message of the session is Welcome. Raises NameTakenError."""
        await self._epochs.fill()
        return self._welcome(hello)

    def renewed(self, session: Session, nonce: int) -> None:
        """A renewal: answered, unless the lease has ended, in which case the stream ends."""
        if not self._current(session):
            return
        if not self.ownership.renewed(session.key):
            session.end("the lease had ended when this renewal came")
            return
        session.renewed_at = self.clock.wall()
        session.send(work_pb2.WorkResponse(renewed=work_pb2.Renewed(nonce=nonce)))

    def released(self, session: Session, released: Iterable[Held]) -> None:
        """The worker does not act for these shards any more."""
        if self._current(session):
            freed = self.ownership.released(session.key, released)
            self._withdraw(session, set(freed))
            session.outbox.leaving.difference_update(freed)
            self.flags.holds_no_more(session.key, freed)
            self._plan_now.set()

    def drained(self, session: Session) -> None:
        """The worker is about to stop."""
        if self._current(session):
            log.info("worker drains", worker=session.key.name)
            self.ownership.drain(session.key)
            self._plan_now.set()

    def status(self, session: Session, report: work_pb2.StatusReport) -> None:
        """What became of resources; counts only from the holder of their shards."""
        if not self._current(session):
            return
        session.reported = True
        for resource in report.resources:
            self._reported(session, resource)
        for resource_id in report.gone_resource_ids:
            record = self.index.get(resource_id)
            if record is not None and self.ownership.holds(session.key, record.shard):
                self._gone(record)
        self.history.add(session.key.name, report.history)
        self.dispatch.match_unmatched()

    def operation(self, session: Session, report: work_pb2.OperationReport) -> None:
        """Progress of an operator's command."""
        record = self.index.get(report.resource_id)
        if self._current(session) and record is not None and self.ownership.holds(session.key, record.shard):
            self.operations.reported(report)

    def bye(self, session: Session) -> None:
        """The stream ended."""
        if self._current(session):
            reason = session.ended or "the worker's end, or the connection"
            log.info(
                "worker's stream ended", worker=session.key.name, incarnation=session.key.incarnation, reason=reason
            )
            self._detach(session)
            self.ownership.disconnected(session.key)
            if self.ownership.holder(session.key) is None:
                self.flags.holds_no_more(session.key, None)
            self._plan_now.set()

    # --- what operations need (operations.Cluster) ---

    def complete(self) -> bool:
        """Whether the view may say that something does not exist.

        True once, since this leader began, (a) a full inventory was taken, unless [scheduler] inventory is optional;
        (b) no shard may still be held by a worker that has not said Hello; (c) each worker that claimed shards in
        Hello has reported since, or has had a lease's time to do it. It stays true for the term.
        """
        if self._settled:
            return True
        if not self.census.complete and self.settings.inventory == "required":
            return False
        if any(shard.state is ShardState.WAITING and not shard.holder.name for shard in self.ownership.shards):
            return False
        lately = self.clock.wall() - self.settings.lease_seconds
        self._settled = all(
            session.reported or not session.claimed or session.joined_at < lately for session in self.sessions.values()
        )
        return self._settled

    def put(self, hint: work_pb2.Hint, shard: int) -> None:
        """Bring a hint to the owner of a shard, now or when it has one."""
        self.dispatch.put(hint, shard)

    def broadcast(self, message: work_pb2.WorkResponse) -> list[Key]:
        """Tell every connected worker."""
        for session in self.sessions.values():
            session.send(message)
        return list(self.sessions)

    def holders_of(self, shard: int | None) -> set[Key]:
        """Who may act for a shard (None: for any) at this moment."""
        if shard is None:
            return {holder.key for holder in self.ownership.holders() if holder.shards}
        key = self.ownership.shards[shard].holder
        return {key} if key.name else set()

    def has_owner(self, shard: int) -> bool:
        """Whether a connected worker owns the shard."""
        return self.ownership.shards[shard].state is ShardState.OWNED

    def held_back(self, resource_id: str) -> bool:
        """Whether the resource is in quarantine."""
        return self.quarantine.holds(resource_id)

    def trust(self, resource_ids: Iterable[str]) -> None:
        """An operator commands these resources: they leave quarantine, and their owner looks at them."""
        for resource_id in resource_ids:
            if self.quarantine.trust(resource_id):
                self.dispatch.withheld.discard(resource_id)
                if (record := self.index.get(resource_id)) is not None:
                    self.dispatch.look(record)
                    self.view.changed(record)

    # --- shards ---

    def _welcome(self, hello: work_pb2.Hello) -> Session:
        key = Key(hello.worker, hello.incarnation)
        claims = [Held(held.shard, Epoch(held.term, held.counter)) for held in hello.held]
        kept = self.ownership.hello(key, claims)
        # From here to the end nothing else runs: the old stream is cut and the new one complete in one step.
        if (old := self.sessions.get(key)) is not None:
            self._detach(old)
            old.end("the worker connected again")
        session = Session(key, hello, self.clock.wall())
        session.claimed = len(kept)
        session.outbox = Outbox(
            self.journal,
            self.clock,
            session.wake,
            shard_of=shard_of,
            window=self.settings.unacked_batches,
            late_seconds=self.settings.late_seconds,
        )
        session.outbox.on_leaving = lambda shard, hint: come_back(hint, [], self.journal, self._routes[shard])
        session.outbox.image_of = self.operations.overrides
        self.sessions[key] = session
        welcome = work_pb2.Welcome(
            term=self.term,
            lease_milliseconds=int(self.settings.lease_seconds * 1000),
            kept=_shards(kept),
            debug_flags=self.flags.all(),
        )
        session.send(work_pb2.WorkResponse(welcome=welcome))
        for change in self.flags.changes.values():
            for message in change.messages():
                session.send(message)
        self._attach(session, [held.shard for held in kept])
        ADOPTED.inc(len(kept))
        log.info("worker connected", worker=key.name, incarnation=key.incarnation, claimed=len(claims), kept=len(kept))
        self._plan_now.set()
        return session

    def _attach(self, session: Session, shards: Iterable[int]) -> None:
        """From now on the shards' hints go to this worker, beginning with what was kept for it."""
        for shard in shards:
            session.outbox.leaving.discard(shard)
            self._routes[shard] = session.outbox
            for hint, rows in self._shelves[shard].take():
                session.outbox.put(hint, rows)
            # What was acked is in the inbox of an owner that is no more; a look finds all but these again.
            for resource_id in self.index.by_shard.get(shard, ()):
                if (record := self.index.records[resource_id]).deleted:
                    self.dispatch.give(record, DELETE, event_pb2.PRIORITY_USER)
            for hint in self.operations.hints_for(shard):
                self.dispatch.put(hint, shard)
        self.operations.delivered()

    def _withdraw(self, session: Session, shards: set[int]) -> None:
        """From now on the shards' hints are kept for the next owner; those not yet sent go back."""
        moving = {shard for shard in shards if self._routes[shard] is session.outbox}
        if not moving:
            return
        hints, references = session.outbox.withdraw(moving)
        for shard in moving:
            self._routes[shard] = self._shelves[shard]
        for hint, rows in hints:
            come_back(hint, rows, self.journal, self._routes[shard_of(hint.tenant_id)])
        self.journal.settle(references)

    def _detach(self, session: Session) -> None:
        """The stream is no more: all its unacked hints go back to their shards."""
        self.sessions.pop(session.key, None)
        for shard, route in enumerate(self._routes):
            if route is session.outbox:
                self._routes[shard] = self._shelves[shard]
        hints, references = session.outbox.close()
        for hint, rows in hints:
            come_back(hint, rows, self.journal, self._routes[shard_of(hint.tenant_id)])
        self.journal.settle(references)
        self.operations.left(session.key)

    def _carry_out(self) -> bool:
        """Plan and tell the workers; True when more epochs are needed to grant all."""
        plan = self.ownership.plan()
        for holder, shards in plan.ended:
            self._lease_ended(holder, shards)
        for key, revoked in plan.revokes.items():
            session = self.sessions[key]
            moving = {held.shard for held in revoked}
            self._withdraw(session, moving)
            session.outbox.leaving |= moving
            session.send(work_pb2.WorkResponse(revoke=work_pb2.Revoke(shards=_shards(revoked))))
            REVOKED.inc(len(revoked))
        for key, granted in plan.grants.items():
            session = self.sessions[key]
            self._send_grants(session, granted)
            self._attach(session, [held.shard for held in granted])
            GRANTED.inc(len(granted))
            log.info("shards granted", worker=key.name, shards=len(granted))
        return plan.short_of_epochs

    def _send_grants(self, session: Session, granted: list[Held]) -> None:
        grant = work_pb2.Grant()
        for held in granted:
            records = [r for r in self.index.in_shard(held.shard) if not self.quarantine.holds(r.resource_id)]
            for start in range(0, max(1, len(records)), _GRANT):
                grant.shards.append(_shard(held))
                grant.resources.extend(self._known(record) for record in records[start : start + _GRANT])
                if len(grant.resources) >= _GRANT:
                    session.send(work_pb2.WorkResponse(grant=grant))
                    grant = work_pb2.Grant()
            for record in records:
                self.view.changed(record)
        if grant.shards:
            session.send(work_pb2.WorkResponse(grant=grant))

    def _known(self, record: Record) -> work_pb2.KnownResource:
        return work_pb2.KnownResource(
            resource_id=record.resource_id,
            kind=record.kind,  # type: ignore[arg-type]
            tenant_id=record.tenant_id,
            image_id=self.operations.overrides.get(record.resource_id, ""),
            orphan_suspect=record.orphan_suspect,
        )

    def _lease_ended(self, holder: Holder, shards: set[int]) -> None:
        LEASES_ENDED.inc()
        log.warning("lease ended", worker=holder.key.name, incarnation=holder.key.incarnation, shards=len(shards))
        if (session := self.sessions.get(holder.key)) is not None:
            self._detach(session)
            session.end("the lease ended without a renewal")
        self.flags.holds_no_more(holder.key, None)
        busy = []
        for shard in shards:
            for resource_id in self.index.by_shard.get(shard, ()):
                report = self.view.last_report(resource_id)
                if report is not None and report.in_progress and report.worker == holder.key.name:
                    busy.append(resource_id)
        for resource_id in self.quarantine.died(busy):
            self.dispatch.withheld.add(resource_id)
            self.view.changed(self.index.records[resource_id])
            self.operations.abandoned(resource_id, "quarantined: it was in progress when workers died")
            log.error("resource quarantined: in progress when workers died", resource=resource_id)

    # --- resources ---

    def _reported(self, session: Session, resource: resource_pb2.Resource) -> None:
        shard = shard_of(resource.tenant_id)
        known = self.index.get(resource.resource_id)
        if not self.ownership.holds(session.key, shard) or (known is not None and known.shard != shard):
            STATUS.labels("not the holder").inc()
            return
        STATUS.labels("taken").inc()
        record = self.index.name(resource.resource_id, resource.tenant_id, resource.kind)
        self.index.confirm(record)
        record.reported = True
        if resource.revision >= record.revision and (resource.revision or resource.attachments):
            record.revision = resource.revision
            self.index.attach(record, resource.attachments, None)
        if resource.state == resource_pb2.INSTANCE_STATE_CONFIGURED and not resource.in_progress:
            self.quarantine.trust(record.resource_id)
        resource.worker = session.key.name
        self.view.report(record, resource)

    def _gone(self, record: Record) -> None:
        self.index.forget(record.resource_id)
        self.view.forget(record)
        self.operations.gone(record)
        self.dispatch.withheld.discard(record.resource_id)
        self.quarantine.trust(record.resource_id)
        if record.resource_id in self.operations.overrides:
            self.operations.forget_override(record.resource_id)

    def _enrich(self, record: Record, resource: resource_pb2.Resource) -> None:
        resource.worker = self.ownership.shards[record.shard].holder.name
        resource.debug = self.flags.covers_record(record)
        resource.quarantined = self.quarantine.holds(record.resource_id)

    def _current(self, session: Session) -> bool:
        return self.sessions.get(session.key) is session

    # --- commands that came as events ---

    def _command(self, event: event_pb2.Event, publisher: Publisher, number: int) -> None:
        copy = event_pb2.Event()
        copy.CopyFrom(event)
        task = asyncio.ensure_future(self._take_command(copy, publisher, number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take_command(self, event: event_pb2.Event, publisher: Publisher, number: int) -> None:
        while True:
            try:
                await self.operations.command(event)
            except NotKnownYetError:
                # The producer keeps it until it is answered; soon the view is complete.
                await asyncio.sleep(_UPKEEP_SECONDS)
                continue
            except (RefusedError, IdTakenError, UnknownTargetError, InDebugModeError) as error:
                publisher.reject(number, str(error))
                return
            except (DeposedError, SQLAlchemyError):
                # This leadership ends by it (`Store.until_lost`); the producer asks the next.
                return
            publisher.settle([number])
            return

    # --- loops ---

    async def _plans(self) -> None:
        while True:
            # Releases come one by one: those of a moment are granted on together.
            await asyncio.sleep(_GATHER_SECONDS)
            self._plan_now.clear()
            if self._carry_out() or self._epochs.low():
                await self._epochs.fill()
                self._plan_now.set()
            deadline = self.ownership.deadline()
            wait = 60.0 if deadline is None else max(0.0, deadline - self.clock.lease()) + 0.001
            try:
                await asyncio.wait_for(self._plan_now.wait(), min(wait, 60.0))
            except TimeoutError:
                continue

    async def _journals(self) -> None:
        while True:
            await self._journal_now.wait()
            self._journal_now.clear()
            while (batch := self.journal.take()) is not None:
                await write_marks(self.store, batch)
                self.journal.written(batch)

    async def _upkeep(self) -> None:
        while True:
            await asyncio.sleep(_UPKEEP_SECONDS)
            for session in self.sessions.values():
                if session.outbox.check_late():
                    LATE.inc()
                    log.warning("worker is late with its acks", worker=session.key.name, hints=session.outbox.unacked)
            UNMATCHED_EXPIRED.inc(self._unmatched.expire())
            if self.quarantine.moved:
                moved, self.quarantine.moved = self.quarantine.moved, {}
                await self.store.set_deaths(moved)
            await self.operations.flush()
            await self.history.flush()
            self._gauges()

    async def _prunes(self) -> None:
        # Once every earlier holder's lease has ended, only leases of today's length are out there.
        await asyncio.sleep(_PRUNE_SECONDS)
        if not self.ownership.collecting_claims:
            await self.store.settle_lease_seconds(self.settings.lease_seconds)
        while True:
            await self.history.prune()
            await asyncio.sleep(_PRUNE_SECONDS)

    def _gauges(self) -> None:
        WORKERS.set(len(self.sessions))
        RESOURCES.set(len(self.index.records))
        MARKS.set(self.journal.kept)
        UNMATCHED.set(len(self._unmatched))
        QUARANTINED.set(len(self.dispatch.withheld))
        states = [shard.state for shard in self.ownership.shards]
        for state in ShardState:
            SHARDS_BY_STATE.labels(state.value).set(states.count(state))


def _shard(held: Held) -> work_pb2.HeldShard:
    return work_pb2.HeldShard(shard=held.shard, term=held.epoch.term, counter=held.epoch.counter)


def _shards(held: Iterable[Held]) -> list[work_pb2.HeldShard]:
    return [_shard(one) for one in held]


__all__ = ["Leader", "NameTakenError"]
