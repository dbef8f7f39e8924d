"""The cluster as operators see it: each resource as its holder last reported it, with what only the scheduler knows.

Reports are taken from holders only (the caller checks). A watcher keeps the ids that changed, not the changes, so a
slow one costs no more than the number of resources.
"""

import asyncio
from collections.abc import Callable, Iterable

from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import query_pb2

from .index import Index, Record

Enrich = Callable[[Record, resource_pb2.Resource], None]
_PAGE = 500


class Watcher:
    """One WatchResources stream."""

    def __init__(self, wanted: Iterable[str], tenant_id: str) -> None:
        self._wanted = frozenset(wanted)
        self._tenant_id = tenant_id
        self._dirty: dict[str, None] = {}
        self._gone: dict[str, None] = {}
        self._wake = asyncio.Event()

    def wants(self, record: Record) -> bool:
        """Whether the stream is about this resource."""
        return (not self._wanted or record.resource_id in self._wanted) and (
            not self._tenant_id or record.tenant_id == self._tenant_id
        )

    def note(self, record: Record, *, gone: bool = False) -> None:
        """The resource changed, or exists no more."""
        if self.wants(record):
            add, remove = (self._gone, self._dirty) if gone else (self._dirty, self._gone)
            remove.pop(record.resource_id, None)
            add[record.resource_id] = None
            self._wake.set()

    def wake(self) -> None:
        """Let `changes` return, also with nothing."""
        self._wake.set()

    async def changes(self) -> tuple[list[str], list[str]]:
        """Wait for changes: at most a page of changed ids, and those that are gone."""
        await self._wake.wait()
        changed = [self._dirty.popitem()[0] for _ in range(min(_PAGE, len(self._dirty)))]
        gone = list(self._gone)
        self._gone.clear()
        if not self._dirty:
            self._wake.clear()
        return changed, gone


class View:
    """Reports by resource, watchers, and the last full inventory's findings."""

    def __init__(self, index: Index, enrich: Enrich) -> None:
        """`enrich` adds what the scheduler knows: owner, debug, quarantine."""
        self._index = index
        self._enrich = enrich
        self._reports: dict[str, resource_pb2.Resource] = {}
        self._watchers: set[Watcher] = set()
        self.findings: list[query_pb2.Finding] = []
        self.findings_at: float | None = None

    def report(self, record: Record, resource: resource_pb2.Resource) -> None:
        """The holder's word on a resource."""
        kept = resource_pb2.Resource()
        kept.CopyFrom(resource)  # a reference would keep the whole report it came in
        self._reports[record.resource_id] = kept
        self.changed(record)

    def last_report(self, resource_id: str) -> resource_pb2.Resource | None:
        """What a holder said last."""
        return self._reports.get(resource_id)

    def forget(self, record: Record) -> None:
        """The resource exists no more."""
        self._reports.pop(record.resource_id, None)
        for watcher in self._watchers:
            watcher.note(record, gone=True)

    def changed(self, record: Record) -> None:
        """Tell the watchers."""
        for watcher in self._watchers:
            watcher.note(record)

    def compose(self, record: Record) -> resource_pb2.Resource:
        """The resource as it is known now."""
        resource = resource_pb2.Resource()
        if (report := self._reports.get(record.resource_id)) is not None:
            resource.CopyFrom(report)
        else:
            resource.resource_id = record.resource_id
            resource.kind = record.kind  # type: ignore[assignment]
            resource.attachments.extend(record.attachments)
            resource.revision = record.revision
        resource.tenant_id = record.tenant_id
        resource.name = resource.name or record.name
        resource.shard = record.shard
        self._enrich(record, resource)
        return resource

    def get(self, resource_id: str) -> resource_pb2.Resource | None:
        """One resource, None when unknown."""
        record = self._index.get(resource_id)
        return None if record is None else self.compose(record)

    def page(self, *, tenant_id: str, state: int, after: str, limit: int) -> tuple[list[resource_pb2.Resource], str]:
        """Resources sorted by id after `after`, and where the next page begins (empty: nowhere)."""
        if tenant_id:
            ids = [record.resource_id for record in self._index.of_tenant(tenant_id)]
        else:
            ids = sorted(self._index.records)
        page: list[resource_pb2.Resource] = []
        for resource_id in ids:
            if resource_id <= after:
                continue
            if state and (resource_id not in self._reports or self._reports[resource_id].state != state):
                continue
            if len(page) == limit:
                return page, page[-1].resource_id
            page.append(self.compose(self._index.records[resource_id]))
        return page, ""

    def watch(self, wanted: Iterable[str], tenant_id: str) -> Watcher:
        """Begin to watch; end it with `unwatch`."""
        watcher = Watcher(wanted, tenant_id)
        self._watchers.add(watcher)
        return watcher

    def unwatch(self, watcher: Watcher) -> None:
        """End a watch."""
        self._watchers.discard(watcher)

    def wake(self) -> None:
        """Let all watchers look up: the leadership is over."""
        for watcher in self._watchers:
            watcher.wake()
