"""Operators' commands: rows first, then hints to the owners, until every resource's owner has said what became of it.

What is always true: a command that was answered is a row; a row that is not finished reaches every new owner of its
resources and survives any restart; a report counts only from the holder of the resource's shard; a command whose
resource is in debug mode is refused. A repeated operation id answers with the operation that exists.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from astara.event.v1 import event_pb2
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import operate_pb2, work_pb2

from services.common.clock import Clock

from .commands import (
    DEBUG,
    MANAGE,
    REBUILD_COMMAND,
    WORKERS_DEBUG,
    IdTakenError,
    InDebugModeError,
    NotKnownYetError,
    UnknownTargetError,
    check,
    request_of,
    wait_seconds,
)
from .delivery import Facts, hint_of
from .flags import GLOBAL, RESOURCE, TENANT, Change, Flags
from .hints import OPERATION_BITS
from .index import Index, Record, shard_of
from .metrics import OPERATIONS
from .ownership import Key
from .store import OperationResource, OperationRow, Store

_PENDING = resource_pb2.OPERATION_STATE_PENDING
_RUNNING = resource_pb2.OPERATION_STATE_RUNNING
_SUCCEEDED = resource_pb2.OPERATION_STATE_SUCCEEDED
_FAILED = resource_pb2.OPERATION_STATE_FAILED
_FINAL = (_SUCCEEDED, _FAILED)


class Cluster(Protocol):
    """What operations need of the leader."""

    def complete(self) -> bool:
        """Whether the view is complete."""
        ...

    def put(self, hint: work_pb2.Hint, shard: int) -> None:
        """Bring a hint to the owner of a shard, now or when it has one."""
        ...

    def broadcast(self, message: work_pb2.WorkResponse) -> list[Key]:
        """Tell every connected worker; answers with whom."""
        ...

    def holders_of(self, shard: int | None) -> set[Key]:
        """Who may act for a shard (None: for any) at this moment."""
        ...

    def has_owner(self, shard: int) -> bool:
        """Whether a connected worker owns the shard."""
        ...

    def held_back(self, resource_id: str) -> bool:
        """Whether the resource is in quarantine."""
        ...

    def trust(self, resource_ids: Iterable[str]) -> None:
        """An operator commands these resources: they leave quarantine."""
        ...


@dataclass(eq=False)
class _Diagnosis:
    """One WORKERS_DEBUG on its way."""

    waiting: set[Key]
    answers: dict[str, str]
    done: asyncio.Event


class Operations:
    """All unfinished operations of a leader, and the way in for new ones."""

    def __init__(
        self,
        store: Store,
        index: Index,
        flags: Flags,
        cluster: Cluster,
        clock: Clock,
        new_id: Callable[[], str],
        kept: Iterable[OperationRow],
        overrides: dict[str, str],
    ) -> None:
        self._store = store
        self._index = index
        self._flags = flags
        self._cluster = cluster
        self._clock = clock
        self._new_id = new_id
        self._active = {row.operation.operation_id: row for row in kept}
        self._by_shard: dict[int, dict[tuple[str, str], OperationRow]] = {}
        self._by_resource: dict[str, set[str]] = {}
        self._diagnoses: dict[str, _Diagnosis] = {}
        self._moved: dict[str, resource_pb2.Operation] = {}
        self._states: list[tuple[str, str, int]] = []
        self._starting: dict[str, asyncio.Lock] = {}
        self._dropped: list[str] = []
        self._tasks: set[asyncio.Future[None]] = set()
        self.overrides = overrides
        for row in list(self._active.values()):
            self._register(row)
            if row.operation.kind == WORKERS_DEBUG:
                self._finish(row, _FAILED, "the scheduler was restarted before the workers answered")
            elif row.operation.kind in (DEBUG, MANAGE):
                # Workers hear all flags in Welcome, before they act; nobody who acted before is unaware for long.
                self._finish(row, _SUCCEEDED, "the scheduler was restarted; every worker was told when it connected")

    def close(self) -> None:
        """The leader ends: nobody waits for changes any more."""
        for task in self._tasks:
            task.cancel()

    # --- new commands ---

    async def start(self, request: operate_pb2.StartOperationRequest) -> resource_pb2.Operation:
        """Take a command. Raises RefusedError, IdTakenError, UnknownTargetError, NotKnownYetError, InDebugModeError."""
        check(request)
        operation_id = request.operation_id or self._new_id()
        # Two calls with one id must not both find that it does not exist yet: the second waits for the first's row.
        lock = self._starting.setdefault(operation_id, asyncio.Lock())
        try:
            async with lock:
                existing = await self.get(operation_id)
                if existing is not None:
                    wanted = (request.kind, request.scope, request.target_id, request.image_id)
                    if wanted != (existing.kind, existing.scope, existing.target_id, existing.image_id):
                        raise IdTakenError(f"operation_id: {operation_id} is another command's; choose a new one")
                    return existing
                row = self._new(operation_id, request)
                OPERATIONS.labels(resource_pb2.OperationKind.Name(request.kind)).inc()
                if request.kind in (DEBUG, MANAGE):
                    await self._change_flags(row, request)
                elif request.kind == WORKERS_DEBUG:
                    await self._diagnose(row, request)
                else:
                    await self._fan_out(row, request)
                return _copy(row.operation)
        finally:
            if not lock.locked():
                self._starting.pop(operation_id, None)

    async def command(self, event: event_pb2.Event) -> None:
        """Take a COMMAND or REBUILD event. Raises as `start`; returns when the command is a row."""
        await self.start(request_of(event))

    # --- what becomes of them ---

    async def get(self, operation_id: str) -> resource_pb2.Operation | None:
        """An operation as it is now; None when unknown."""
        row = self._active.get(operation_id)
        if row is not None:
            return _copy(row.operation)
        if operation_id in self._moved:
            return _copy(self._moved[operation_id])
        return await self._store.get_operation(operation_id)

    async def newest(self, target_id: str, limit: int) -> list[resource_pb2.Operation]:
        """Operations, newest first."""
        await self.flush()
        return await self._store.list_operations(target_id, limit)

    def hints_for(self, shard: int) -> list[work_pb2.Hint]:
        """What a new owner of a shard must be told of unfinished operations."""
        return [
            self._hint(row, row.resources[resource_id])
            for (_, resource_id), row in self._by_shard.get(shard, {}).items()
        ]

    def reported(self, report: work_pb2.OperationReport) -> None:
        """The holder of the resource says what became of an operation there."""
        row = self._active.get(report.operation_id)
        item = None if row is None else row.resources.get(report.resource_id)
        if row is None or item is None or item.state in _FINAL:
            return
        if report.state in (_RUNNING, _SUCCEEDED, _FAILED):
            self._settle(row, item, report.state, report.message)

    def gone(self, record: Record) -> None:
        """The resource exists no more: nothing is left to do for it."""
        self._settle_all(record.resource_id, _SUCCEEDED, "")

    def abandoned(self, resource_id: str, why: str) -> None:
        """The resource is held back from its owners: what was commanded does not happen."""
        self._settle_all(resource_id, _FAILED, why)

    def forget_override(self, resource_id: str) -> None:
        """The resource exists no more: nor does its override of the image."""
        del self.overrides[resource_id]
        self._dropped.append(resource_id)

    def delivered(self) -> None:
        """Owners changed: operations whose resources all have one are RUNNING."""
        for row in self._active.values():
            if row.operation.state == _PENDING and all(
                self._cluster.has_owner(self._shard(item))
                for item in row.resources.values()
                if item.state not in _FINAL
            ):
                row.operation.state = _RUNNING
                self._note(row)

    def diagnosed(self, key: Key, diagnosis: work_pb2.Diagnosis) -> None:
        """A worker answers."""
        wanted = self._diagnoses.get(diagnosis.diagnosis_id)
        if wanted is not None and key in wanted.waiting:
            wanted.answers[key.name] = diagnosis.json
            self.left(key, only=wanted)

    def left(self, key: Key, only: _Diagnosis | None = None) -> None:
        """A worker's stream ended: it answers no diagnosis any more."""
        for wanted in [only] if only is not None else list(self._diagnoses.values()):
            wanted.waiting.discard(key)
            if not wanted.waiting:
                wanted.done.set()

    async def flush(self) -> None:
        """Write what moved."""
        if self._dropped:
            dropped, self._dropped = self._dropped, []
            await self._store.drop_overrides(dropped)
        if not self._moved and not self._states:
            return
        moved, states = [_copy(operation) for operation in self._moved.values()], self._states
        # What is asked of the store from here on is answered after this write: its thread keeps the order.
        self._moved, self._states = {}, []
        await self._store.update_operations(moved, states)

    # --- kinds of commands ---

    async def _fan_out(self, row: OperationRow, request: operate_pb2.StartOperationRequest) -> None:
        for record in self._targets(request):
            row.resources[record.resource_id] = OperationResource(
                record.resource_id, record.tenant_id, record.kind, _PENDING
            )
        row.operation.total = len(row.resources)
        if not row.resources:
            row.operation.state, row.operation.message = _SUCCEEDED, "it covers no resource"
        overrides = dict.fromkeys(row.resources, request.image_id) if request.kind == REBUILD_COMMAND else {}
        trusted = list(row.resources) if request.scope == RESOURCE else []
        await self._store.put_operation(row, overrides=overrides, trusted=trusted)
        for resource_id, image in overrides.items():
            self.overrides.pop(resource_id, None)
            if image:
                self.overrides[resource_id] = image
        if not row.resources:
            return
        self._active[row.operation.operation_id] = row
        self._register(row)
        self._cluster.trust(trusted)
        for item in row.resources.values():
            self._cluster.put(self._hint(row, item), self._shard(item))
        self.delivered()

    def _targets(self, request: operate_pb2.StartOperationRequest) -> list[Record]:
        if request.scope == RESOURCE:
            record = self._index.get(request.target_id)
            if record is None:
                self._unknown(request.target_id)
            elif self._flags.covers_record(record):
                raise InDebugModeError(f"resource {request.target_id} is in debug mode")
            return [] if record is None else [record]
        target = request.target_id if request.scope == TENANT else ""
        if self._flags.has(GLOBAL, "") or (target and self._flags.has(TENANT, target)):
            raise InDebugModeError(f"{f'tenant {target}' if target else 'everything'} is in debug mode")
        if not self._cluster.complete():
            raise NotKnownYetError("which resources the command covers is not known yet")
        records = self._index.of_tenant(target) if target else list(self._index.records.values())
        return [
            record
            for record in records
            if not self._flags.covers_record(record) and not self._cluster.held_back(record.resource_id)
        ]

    async def _change_flags(self, row: OperationRow, request: operate_pb2.StartOperationRequest) -> None:
        record = self._index.get(request.target_id) if request.scope == RESOURCE else None
        clearing = request.kind == MANAGE
        flagged = self._flags.has(RESOURCE, request.target_id)
        # In an emergency a flag may be set before all is known; a flag for nothing does no harm.
        if request.scope == RESOURCE and record is None and not flagged and self._cluster.complete():
            self._unknown(request.target_id)
        flag = resource_pb2.DebugFlag(
            scope=request.scope, target_id=request.target_id, reason=request.reason, set_by=request.requested_by
        )
        flag.set_at.CopyFrom(row.operation.created_at)
        tenant = record.tenant_id if record is not None else request.target_id
        if clearing:
            cleared = self._flags.cleared_by(request.scope, request.target_id)
            if not cleared or not self._flags.has(request.scope, request.target_id):
                cleared.append(flag)
            await self._store.put_operation(row, cleared=cleared)
            self._flags.clear(cleared)
        else:
            await self._store.put_operation(row, flags=[(flag, tenant)])
            self._flags.set(flag, tenant)
        shard = None
        if request.scope == TENANT or record is not None:
            shard = shard_of(tenant)
        change = Change(self._new_id(), cleared if clearing else [flag], clearing, shard)
        self._active[row.operation.operation_id] = row
        self._flags.changes[change.change_id] = change
        for message in change.messages():
            self._cluster.broadcast(message)
        # Who holds it and is not connected is told again when it is; until then it may be in a step.
        change.waiting = self._cluster.holders_of(shard)
        if not change.waiting:
            change.done.set()
        row.operation.state = _RUNNING
        task = asyncio.ensure_future(self._finish_change(row, change))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait([task], timeout=wait_seconds(request))

    async def _finish_change(self, row: OperationRow, change: Change) -> None:
        try:
            await change.done.wait()
        finally:
            self._flags.changes.pop(change.change_id, None)
        self._finish(row, _SUCCEEDED, "")
        await self.flush()

    async def _diagnose(self, row: OperationRow, request: operate_pb2.StartOperationRequest) -> None:
        await self._store.put_operation(row)
        name = row.operation.operation_id
        self._active[name] = row
        asked = work_pb2.DiagnosisRequest(
            diagnosis_id=name,
            tenant_id=request.target_id if request.scope == TENANT else "",
            resource_id=request.target_id if request.scope == RESOURCE else "",
        )
        message = work_pb2.WorkResponse(diagnosis_request=asked)
        wanted = _Diagnosis(set(self._cluster.broadcast(message)), {}, asyncio.Event())
        row.operation.state, row.operation.total = _RUNNING, len(wanted.waiting)
        self._diagnoses[name] = wanted
        if not wanted.waiting:
            wanted.done.set()
        try:
            await asyncio.wait_for(wanted.done.wait(), wait_seconds(request))
        except TimeoutError:
            row.operation.message = "no answer from " + ", ".join(sorted(key.name for key in wanted.waiting))
        finally:
            del self._diagnoses[name]
        row.operation.diagnoses.extend(wanted.answers[worker] for worker in sorted(wanted.answers))
        row.operation.done = len(wanted.answers)
        row.operation.failed = row.operation.total - row.operation.done
        self._finish(row, _FAILED if row.operation.failed else _SUCCEEDED, row.operation.message)
        await self.flush()

    # --- bookkeeping ---

    def _new(self, operation_id: str, request: operate_pb2.StartOperationRequest) -> OperationRow:
        operation = resource_pb2.Operation(
            operation_id=operation_id,
            kind=request.kind,
            scope=request.scope,
            target_id=request.target_id,
            image_id=request.image_id,
            requested_by=request.requested_by,
            reason=request.reason,
            state=_PENDING,
        )
        operation.created_at.FromNanoseconds(int(self._clock.wall() * 1e9))
        operation.updated_at.CopyFrom(operation.created_at)
        return OperationRow(operation, {})

    def _unknown(self, resource_id: str) -> None:
        if self._cluster.complete():
            raise UnknownTargetError(f"resource {resource_id} does not exist")
        raise NotKnownYetError(f"whether resource {resource_id} exists is not known yet")

    def _shard(self, item: OperationResource) -> int:
        return shard_of(item.tenant_id)

    def _register(self, row: OperationRow) -> None:
        operation_id = row.operation.operation_id
        for item in row.resources.values():
            if item.state not in _FINAL:
                self._by_shard.setdefault(self._shard(item), {})[operation_id, item.resource_id] = row
                self._by_resource.setdefault(item.resource_id, set()).add(operation_id)

    def _hint(self, row: OperationRow, item: OperationResource) -> work_pb2.Hint:
        one = row.operation.scope == RESOURCE
        priority = event_pb2.PRIORITY_USER if one else event_pb2.PRIORITY_BULK
        action = OPERATION_BITS[row.operation.kind]
        hint = hint_of(Facts(item.resource_id, item.kind, item.tenant_id, action, 0, priority))
        hint.operations.add().CopyFrom(row.operation)
        return hint

    def _settle(self, row: OperationRow, item: OperationResource, state: int, message: str) -> None:
        operation = row.operation
        if item.state == state:
            return
        item.state = state
        if message:
            operation.message = message if operation.total == 1 else f"{item.resource_id}: {message}"
        self._states.append((operation.operation_id, item.resource_id, state))
        if state in _FINAL:
            self._by_shard.get(self._shard(item), {}).pop((operation.operation_id, item.resource_id), None)
            mine = self._by_resource.get(item.resource_id, set())
            mine.discard(operation.operation_id)
            if not mine:
                self._by_resource.pop(item.resource_id, None)
        operation.done += state == _SUCCEEDED
        operation.failed += state == _FAILED
        if operation.done + operation.failed >= operation.total:
            self._finish(row, _FAILED if operation.failed else _SUCCEEDED, operation.message)
        else:
            operation.state = _RUNNING
            self._note(row)

    def _settle_all(self, resource_id: str, state: int, message: str) -> None:
        for operation_id in list(self._by_resource.get(resource_id, ())):
            row = self._active[operation_id]
            self._settle(row, row.resources[resource_id], state, message)

    def _finish(self, row: OperationRow, state: "resource_pb2.OperationState.ValueType", message: str) -> None:
        row.operation.state, row.operation.message = state, message
        self._note(row)
        self._active.pop(row.operation.operation_id, None)

    def _note(self, row: OperationRow) -> None:
        row.operation.updated_at.FromNanoseconds(int(self._clock.wall() * 1e9))
        self._moved[row.operation.operation_id] = row.operation


def _copy(operation: resource_pb2.Operation) -> resource_pb2.Operation:
    copy = resource_pb2.Operation()
    copy.CopyFrom(operation)
    return copy
