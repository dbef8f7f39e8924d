"""Debug flags, and changes of them on their way to the workers.

A flag is a row before anybody hears of it (`operations.py` writes it). A change is over when every worker that held
what it covers has said that no step runs any more, or holds it no longer, or has lost its lease.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import work_pb2

from .index import Record
from .ownership import Key

RESOURCE = resource_pb2.OPERATION_SCOPE_RESOURCE
TENANT = resource_pb2.OPERATION_SCOPE_TENANT
GLOBAL = resource_pb2.OPERATION_SCOPE_GLOBAL


@dataclass(eq=False)
class Change:
    """One DEBUG or MANAGE on its way: several flags when managing a tenant clears its routers' flags."""

    change_id: str
    flags: list[resource_pb2.DebugFlag]
    cleared: bool
    shard: int | None
    """The shard that it concerns; None: all of them."""
    waiting: set[Key] = field(default_factory=set)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def messages(self) -> list[work_pb2.WorkResponse]:
        """What workers are told; the last flag's answer counts, so it alone carries the change's own id."""
        ids = [f"{self.change_id}/{number}" for number in range(1, len(self.flags))] + [self.change_id]
        return [
            work_pb2.WorkResponse(flag_change=work_pb2.FlagChange(change_id=change_id, flag=flag, cleared=self.cleared))
            for change_id, flag in zip(ids, self.flags, strict=True)
        ]


class Flags:
    """All flags in force and all changes on their way."""

    def __init__(self, kept: Iterable[tuple[resource_pb2.DebugFlag, str]]) -> None:
        self._flags = {(int(flag.scope), flag.target_id): (flag, tenant) for flag, tenant in kept}
        self.changes: dict[str, Change] = {}

    def all(self) -> list[resource_pb2.DebugFlag]:
        """The flags in force."""
        return [flag for flag, _ in self._flags.values()]

    def has(self, scope: int, target_id: str) -> bool:
        """Whether exactly this flag is set."""
        return (scope, target_id) in self._flags

    def covers(self, resource_id: str, tenant_id: str) -> bool:
        """Whether a resource is in debug mode by any flag."""
        if not self._flags:
            return False
        return any(self.has(*key) for key in ((RESOURCE, resource_id), (TENANT, tenant_id), (GLOBAL, "")))

    def covers_record(self, record: Record) -> bool:
        """Whether a resource is in debug mode by any flag."""
        return self.covers(record.resource_id, record.tenant_id)

    def cleared_by(self, scope: int, target_id: str) -> list[resource_pb2.DebugFlag]:
        """What managing this clears: the flag itself, and a tenant's routers' flags."""
        flags = [
            flag
            for (kind, target), (flag, tenant) in self._flags.items()
            if (kind, target) == (scope, target_id) or (scope == TENANT and kind == RESOURCE and tenant == target_id)
        ]
        # The flag that was named comes last: its answer is the one that counts.
        return sorted(flags, key=lambda flag: flag.scope == scope and flag.target_id == target_id)

    def set(self, flag: resource_pb2.DebugFlag, tenant_id: str) -> None:
        """The flag is in force (and a row)."""
        self._flags[int(flag.scope), flag.target_id] = (flag, tenant_id)

    def clear(self, flags: Iterable[resource_pb2.DebugFlag]) -> None:
        """These flags are in force no more."""
        for flag in flags:
            self._flags.pop((int(flag.scope), flag.target_id), None)

    def applied(self, key: Key, change_id: str) -> None:
        """A worker says that a change is in force."""
        if (change := self.changes.get(change_id)) is not None:
            self._done_by(change, key)

    def holds_no_more(self, key: Key, shards: Iterable[int] | None) -> None:
        """A worker does not hold these shards any more (None: nothing at all)."""
        gone = None if shards is None else set(shards)
        for change in list(self.changes.values()):
            if gone is None or (change.shard is not None and change.shard in gone):
                self._done_by(change, key)

    def _done_by(self, change: Change, key: Key) -> None:
        change.waiting.discard(key)
        if not change.waiting:
            change.done.set()
