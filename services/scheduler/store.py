"""What must not be lost: the leader's row, epochs, operations, debug flags, overrides, marks, history, quarantine.

One thread talks to the database, so the event loop never waits on it, and writes happen in the order in which they were
asked for. Every write runs in a transaction that first writes the leader's row, on condition that this leader's term is
still the highest: a deposed leader can write nothing (`DeposedError`), also where two nodes of a cluster take writes
and find out when they commit. When the database fails a leadership ends as a whole (`until_lost`): what it has in
memory and what is kept may differ. SQLite runs in WAL mode with full synchronisation: what a call has answered survives
the loss of the process and of power.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import sqlalchemy as sa
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import work_pb2

from .database import Database
from .delivery import JournalBatch
from .tables import debug_flag, history, image_override, leader, mark, operation, operation_resource, quarantine

_T = TypeVar("_T")
_CHUNK = 500
_FINISHED = (resource_pb2.OPERATION_STATE_SUCCEEDED, resource_pb2.OPERATION_STATE_FAILED)


class DeposedError(Exception):
    """Another leader has a higher term: this one must stop serving."""


@dataclass(frozen=True)
class Term:
    """A leader's term, and what earlier leaders left behind."""

    term: int
    granted_before: int
    """The highest epoch counter that was ever reserved."""
    earlier_lease_seconds: float
    """The longest lease that an earlier leader may have given."""


@dataclass(frozen=True)
class LeaderRow:
    """What the database says of the leader."""

    term: int
    holder: str
    """Empty when nobody has led yet, or the last leader resigned."""
    expires: float
    """Unix time by the leader's clock."""


@dataclass
class OperationRow:
    """An operation with what became of each of its resources."""

    operation: resource_pb2.Operation
    resources: dict[str, "OperationResource"]


@dataclass
class OperationResource:
    """One resource of an operation."""

    resource_id: str
    tenant_id: str
    kind: int
    state: int


@dataclass(frozen=True)
class Kept:
    """Everything that a new leader reads when it begins."""

    operations: list[OperationRow]
    flags: list[tuple[resource_pb2.DebugFlag, str]]
    overrides: dict[str, str]
    marks: list[tuple[int, work_pb2.Hint]]
    next_mark: int
    deaths: dict[str, int]


class Store:
    """The database. Open it before anything else, close it last."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._term = 0
        self._lost: asyncio.Future[NoReturn] | None = None

    async def open(self) -> None:
        """Open the database. Raises DatabaseAwayError; SettingsError when it cannot be used."""
        await self._call(self._database.open)

    async def close(self) -> None:
        """Finish what was asked for and disconnect."""
        await self._call(self._database.close)
        self._thread.shutdown()

    # --- leadership ---

    async def leader(self) -> LeaderRow:
        """Who leads, or led last."""
        query = sa.select(leader.c.term, leader.c.holder, leader.c.expires).where(leader.c.id == 1)
        row = await self._transaction(lambda connection: connection.execute(query).one())
        return LeaderRow(row.term, row.holder, row.expires)

    async def acquire(
        self, holder: str, *, now: float, ttl: float, lease_seconds: float, over: LeaderRow | None = None
    ) -> Term | None:
        """Become leader with the next term when the row is free, expired, or the holder's own; else None.

        With `over` it is enough, and needed, that the row's term is still the one that was read there.
        """

        def work(connection: sa.Connection) -> Term | None:
            row = connection.execute(sa.select(leader).where(leader.c.id == 1).with_for_update()).one()
            if row.term != over.term if over else row.holder not in ("", holder) and row.expires > now:
                return None
            # A new database begins with the time as its term, not with 1: appliances remember the highest epoch that
            # they have seen, and would refuse a leader whose database was lost.
            term = row.term + 1 if row.term else int(now)
            _update_leader(
                connection,
                term=term,
                holder=holder,
                expires=now + ttl,
                lease_seconds=max(row.lease_seconds, lease_seconds),
            )
            return Term(term, row.epoch, row.lease_seconds)

        acquired = await self._transaction(work)
        if acquired is not None:
            self._term = acquired.term
            self._lost = asyncio.get_running_loop().create_future()
        return acquired

    async def until_lost(self) -> NoReturn:
        """Wait until the database fails this leader or deposes it. Raises the database's error, or DeposedError."""
        if self._lost is None:
            raise RuntimeError("this replica has not led")
        await asyncio.shield(self._lost)

    async def renew(self, *, now: float, ttl: float) -> None:
        """Keep the leader's row. Raises DeposedError. That it fails for a while ends no leadership."""
        await self._transaction(self._fenced(lambda connection: _update_leader(connection, expires=now + ttl)))

    async def resign(self) -> None:
        """Let the next leader begin at once; nothing when deposed already, or never leader."""
        if not self._term:
            return
        try:
            await self.write(lambda connection: _update_leader(connection, expires=0.0, holder=""))
        except DeposedError:
            return

    async def settle_lease_seconds(self, seconds: float) -> None:
        """No worker has a longer lease than this any more."""
        await self.write(lambda connection: _update_leader(connection, lease_seconds=seconds))

    async def reserve_epochs(self, count: int) -> range:
        """Counters that no other grant ever gets."""

        def work(connection: sa.Connection) -> range:
            last: int = connection.execute(sa.select(leader.c.epoch).where(leader.c.id == 1)).scalar_one()
            _update_leader(connection, epoch=last + count)
            return range(last + 1, last + count + 1)

        return await self.write(work)

    # --- what a leader keeps ---

    async def load(self) -> Kept:
        """Everything that a new leader needs."""
        return await self.write(_load)

    async def write_marks(self, batch: JournalBatch) -> None:
        """Add and drop rows of hints."""

        def work(connection: sa.Connection) -> None:
            if batch.rows:
                connection.execute(sa.insert(mark), [{"id": row.row, "hint": row.hint} for row in batch.rows])
            for chunk in _chunks(batch.drop):
                connection.execute(sa.delete(mark).where(mark.c.id.in_(chunk)))

        await self.write(work)

    async def put_operation(
        self,
        row: OperationRow,
        *,
        flags: Sequence[tuple[resource_pb2.DebugFlag, str]] = (),
        cleared: Sequence[resource_pb2.DebugFlag] = (),
        overrides: dict[str, str] | None = None,
        trusted: Iterable[str] = (),
    ) -> None:
        """A new operation with all that becomes durable together with it.

        `flags` are set (with the tenant of a resource's flag), `cleared` are removed; `overrides` are set, or dropped
        where empty; `trusted` resources leave quarantine.
        """

        def work(connection: sa.Connection) -> None:
            _put_operations(connection, [row.operation], new=True)
            rows = [
                {
                    "operation": row.operation.operation_id,
                    "resource": item.resource_id,
                    "tenant": item.tenant_id,
                    "kind": item.kind,
                    "state": item.state,
                }
                for item in row.resources.values()
            ]
            if rows:
                connection.execute(sa.insert(operation_resource), rows)
            for flag in (*cleared, *(flag for flag, _ in flags)):
                connection.execute(
                    sa.delete(debug_flag).where(
                        debug_flag.c.scope == int(flag.scope), debug_flag.c.target == flag.target_id
                    )
                )
            for flag, tenant in flags:
                body = flag.SerializeToString()
                values = {"scope": int(flag.scope), "target": flag.target_id, "tenant": tenant, "body": body}
                connection.execute(sa.insert(debug_flag).values(values))
            if overrides:
                for chunk in _chunks(list(overrides)):
                    connection.execute(sa.delete(image_override).where(image_override.c.resource.in_(chunk)))
                kept = [{"resource": resource, "image": image} for resource, image in overrides.items() if image]
                if kept:
                    connection.execute(sa.insert(image_override), kept)
            _set_deaths(connection, dict.fromkeys(trusted, 0))

        await self.write(work)

    async def update_operations(
        self, operations: Sequence[resource_pb2.Operation], states: Sequence[tuple[str, str, int]]
    ) -> None:
        """Operations moved; `states` are (operation, resource, state)."""

        def work(connection: sa.Connection) -> None:
            if states:
                connection.execute(
                    sa.update(operation_resource)
                    .where(
                        operation_resource.c.operation == sa.bindparam("o"),
                        operation_resource.c.resource == sa.bindparam("r"),
                    )
                    .values(state=sa.bindparam("s")),
                    [{"o": name, "r": resource, "s": state} for name, resource, state in states],
                )
            _put_operations(connection, operations, new=False)

        await self.write(work)

    async def drop_overrides(self, resource_ids: Sequence[str]) -> None:
        """These resources exist no more: nor do their overrides."""

        def work(connection: sa.Connection) -> None:
            for chunk in _chunks(resource_ids):
                connection.execute(sa.delete(image_override).where(image_override.c.resource.in_(chunk)))

        await self.write(work)

    async def set_deaths(self, deaths: dict[str, int]) -> None:
        """How many deaths of workers found these resources in progress; 0 forgets."""
        await self.write(lambda connection: _set_deaths(connection, deaths))

    async def add_history(self, lines: Sequence[tuple[str, work_pb2.HistoryEntry]]) -> None:
        """Lines of history, each with the worker that wrote it."""

        def work(connection: sa.Connection) -> None:
            connection.execute(
                sa.insert(history),
                [
                    {
                        "resource": entry.resource_id,
                        "at_ms": entry.at_ms,
                        "worker": worker,
                        "body": entry.SerializeToString(),
                    }
                    for worker, entry in lines
                ],
            )

        await self.write(work)

    async def prune(
        self, *, history_before_ms: int, operations_before: float, resources: Iterable[str], per_resource: int
    ) -> None:
        """Let go of old history and finished operations, and of all but the newest lines of `resources`."""

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(history).where(history.c.at_ms < history_before_ms))
            old = sa.select(operation.c.id).where(operation.c.finished, operation.c.created < operations_before)
            names = list(connection.execute(old).scalars())
            for chunk in _chunks(names):
                connection.execute(sa.delete(operation_resource).where(operation_resource.c.operation.in_(chunk)))
                connection.execute(sa.delete(operation).where(operation.c.id.in_(chunk)))
            for resource in resources:
                newest = (
                    sa.select(history.c.id)
                    .where(history.c.resource == resource)
                    .order_by(history.c.at_ms.desc(), history.c.id.desc())
                    .offset(per_resource)
                    .limit(10_000)
                )
                surplus = list(connection.execute(newest).scalars())
                for chunk in _chunks(surplus):
                    connection.execute(sa.delete(history).where(history.c.id.in_(chunk)))

        await self.write(work)

    # --- what is only read ---

    async def get_operation(self, operation_id: str) -> resource_pb2.Operation | None:
        """One operation, None when unknown."""
        query = sa.select(operation.c.body).where(operation.c.id == operation_id)
        body = await self._transaction(lambda connection: connection.execute(query).scalar_one_or_none())
        return None if body is None else resource_pb2.Operation.FromString(body)

    async def list_operations(self, target_id: str, limit: int) -> list[resource_pb2.Operation]:
        """Operations, newest first, of one target or (empty) of all."""
        query = sa.select(operation.c.body).order_by(operation.c.created.desc(), operation.c.id).limit(limit)
        if target_id:
            query = query.where(operation.c.target == target_id)
        bodies = await self._transaction(lambda connection: list(connection.execute(query).scalars()))
        return [resource_pb2.Operation.FromString(body) for body in bodies]

    async def get_history(self, resource_id: str, limit: int) -> list[tuple[str, work_pb2.HistoryEntry]]:
        """A resource's history, newest first, each line with its worker."""
        query = (
            sa.select(history.c.worker, history.c.body)
            .where(history.c.resource == resource_id)
            .order_by(history.c.at_ms.desc(), history.c.id.desc())
            .limit(limit)
        )
        rows = await self._transaction(lambda connection: list(connection.execute(query)))
        return [(row.worker, work_pb2.HistoryEntry.FromString(row.body)) for row in rows]

    async def write(self, work: Callable[[sa.Connection], _T]) -> _T:
        """Run `work` in a transaction of the leader. Raises DeposedError, then nothing was written."""
        lost = self._lost
        try:
            return await self._transaction(self._fenced(work))
        except (DeposedError, sa.exc.DBAPIError) as error:
            # What was wrong with the values alone is the caller's.
            if (
                lost is not None
                and not lost.done()
                and not isinstance(error, (sa.exc.DataError, sa.exc.IntegrityError))
            ):
                lost.set_exception(error)
                lost.exception()  # whoever waits is told; nobody need be waiting
            raise

    def _fenced(self, work: Callable[[sa.Connection], _T]) -> Callable[[sa.Connection], _T]:
        term = self._term

        def fenced(connection: sa.Connection) -> _T:
            held = (leader.c.id == 1) & (leader.c.term == term)
            if connection.execute(sa.update(leader).where(held).values(fence=leader.c.fence + 1)).rowcount != 1:
                raise DeposedError(f"term {term} ended: there is a later leader")
            return work(connection)

        return fenced

    async def _transaction(self, work: Callable[[sa.Connection], _T]) -> _T:
        def run() -> _T:
            with self._database.engine.begin() as connection:
                return work(connection)

        return await self._call(run)

    async def _call(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _update_leader(connection: sa.Connection, **values: Any) -> None:
    connection.execute(sa.update(leader).where(leader.c.id == 1).values(**values))


def _put_operations(connection: sa.Connection, operations: Iterable[resource_pb2.Operation], *, new: bool) -> None:
    for item in operations:
        values = {"finished": item.state in _FINISHED, "body": item.SerializeToString()}
        if new:
            values |= {
                "id": item.operation_id,
                "created": item.created_at.ToNanoseconds() / 1e9,
                "target": item.target_id,
            }
            connection.execute(sa.insert(operation).values(values))
        else:
            connection.execute(sa.update(operation).where(operation.c.id == item.operation_id).values(values))


def _set_deaths(connection: sa.Connection, deaths: dict[str, int]) -> None:
    for chunk in _chunks(list(deaths)):
        connection.execute(sa.delete(quarantine).where(quarantine.c.resource.in_(chunk)))
    rows = [{"resource": resource, "deaths": count} for resource, count in deaths.items() if count]
    if rows:
        connection.execute(sa.insert(quarantine), rows)


def _load(connection: sa.Connection) -> Kept:
    operations: dict[str, OperationRow] = {}
    for body in connection.execute(
        sa.select(operation.c.body).where(sa.not_(operation.c.finished)).order_by(operation.c.created)
    ).scalars():
        item = resource_pb2.Operation.FromString(body)
        operations[item.operation_id] = OperationRow(item, {})
    rows = connection.execute(
        sa.select(operation_resource)
        .join(operation, operation.c.id == operation_resource.c.operation)
        .where(sa.not_(operation.c.finished))
    )
    for row in rows:
        entry = OperationResource(row.resource, row.tenant, row.kind, row.state)
        operations[row.operation].resources[row.resource] = entry
    return Kept(
        operations=list(operations.values()),
        flags=[
            (resource_pb2.DebugFlag.FromString(row.body), row.tenant)
            for row in connection.execute(sa.select(debug_flag))
        ],
        overrides={row.resource: row.image for row in connection.execute(sa.select(image_override))},
        marks=[
            (row.id, work_pb2.Hint.FromString(row.hint))
            for row in connection.execute(sa.select(mark).order_by(mark.c.id))
        ],
        next_mark=(connection.execute(sa.select(sa.func.max(mark.c.id))).scalar() or 0) + 1,
        deaths={row.resource: row.deaths for row in connection.execute(sa.select(quarantine))},
    )


def _chunks(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))
