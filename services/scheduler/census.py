"""What exists, as health lists it: inventories in, index up to date, and a look where something moved unseen.

The scheduler, not health, decides who must look again after a listing: a resource whose fingerprint moved since the
last listing, one that is new and that no holder has reported, one that a full listing no longer names. Absence
removes nothing: the owner looks, and says GONE or not. One stream is listened to; the others stand by.
"""

import asyncio
from collections.abc import Callable

from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import ingest_pb2, query_pb2

from services.common.clock import Clock
from services.common.marks import is_safe_id

from .dispatch import Dispatch
from .index import Index, changed
from .metrics import INVENTORIES
from .view import View

_FINDINGS = {ingest_pb2.INSTANCE_FINDING_SURPLUS: "surplus", ingest_pb2.INSTANCE_FINDING_ORPHAN: "orphan"}


class Lister:
    """One Inventory stream's answers."""

    def __init__(self) -> None:
        self.listening: bool | None = None
        self._taken = 0
        self._list_now = False
        self._news = asyncio.Event()

    def say(self, *, listening: bool | None = None, taken: int = 0, list_now: bool = False) -> None:
        """Tell the lister."""
        if listening is not None:
            self.listening = listening
        self._taken = max(self._taken, taken)
        self._list_now = self._list_now or list_now
        self._news.set()

    async def next(self) -> ingest_pb2.InventoryResponse:
        """The next answer to send."""
        await self._news.wait()
        self._news.clear()
        response = ingest_pb2.InventoryResponse(
            listening=bool(self.listening), taken_generation=self._taken, list_now=self._list_now
        )
        self._list_now = False
        return response


class _Listing:
    """A full listing on its way in."""

    def __init__(self, generation: int, began: float) -> None:
        self.generation = generation
        self.began = began
        self.named: set[str] = set()
        self.suspects: set[str] = set()
        self.findings: list[query_pb2.Finding] = []


class Census:
    """Takes inventories. `taken` is called when a full one was taken as a whole."""

    def __init__(self, index: Index, view: View, dispatch: Dispatch, clock: Clock, taken: Callable[[], None]) -> None:
        self._index = index
        self._view = view
        self._dispatch = dispatch
        self._clock = clock
        self._taken = taken
        self._listers: list[Lister] = []
        self._listing: _Listing | None = None
        self.complete = False
        """Whether a full inventory has been taken since this leader began."""

    def join(self) -> Lister:
        """A stream begins; the first one is listened to and asked for everything."""
        lister = Lister()
        self._listers.append(lister)
        first = self._listers[0] is lister
        lister.say(listening=first, list_now=first)
        return lister

    def leave(self, lister: Lister) -> None:
        """A stream ended; the next one takes over."""
        listened = self._listers[0] is lister
        self._listers.remove(lister)
        if listened:
            self._listing = None
            if self._listers:
                self._listers[0].say(listening=True, list_now=True)

    def list_now(self) -> None:
        """Somebody may have missed events: everything is to be listed."""
        if self._listers:
            self._listers[0].say(list_now=True)

    def take(self, lister: Lister, part: ingest_pb2.InventoryRequest) -> None:
        """A part of an inventory; those of streams that are not listened to are ignored."""
        if not lister.listening:
            return
        if part.begin:
            self._listing = _Listing(part.generation, self._clock.lease()) if part.full else None
        listing = self._listing
        if listing is not None and (listing.generation != part.generation or not part.full):
            listing = self._listing = None  # the listing was abandoned: a part of another one came
        for listed in part.resources:
            if is_safe_id(listed.resource_id) and is_safe_id(listed.tenant_id):
                self._resource(listed, listing)
        for instance in part.instances:
            # The id comes out of a port's description, which whoever may write ports has written.
            if is_safe_id(instance.resource_id):
                self._instance(instance, listing)
        for resource_id in part.removed_resource_ids:
            if (record := self._index.get(resource_id)) is not None:
                self._dispatch.look(record)
        if part.end:
            INVENTORIES.labels("full" if listing is not None else "partial").inc()
            if listing is not None:
                self._end(listing)
                self._listing = None
            lister.say(taken=part.generation)
        self._dispatch.match_unmatched()

    def _resource(self, listed: ingest_pb2.InventoryResource, listing: _Listing | None) -> None:
        record = self._index.name(listed.resource_id, listed.tenant_id, listed.kind)
        unseen = not record.listed and not record.reported
        moved = changed(record, listed)
        self._index.confirm(record)
        record.name, record.fingerprint = listed.name, listed.fingerprint
        record.listed, record.orphan_suspect = True, False
        if listed.revision >= record.revision:
            record.revision = listed.revision
            self._index.attach(record, listed.attachments, listed.floating_ip_ids)
        if listing is not None:
            listing.named.add(listed.resource_id)
        if unseen or moved or self._behind(listed):
            self._dispatch.look(record)
            self._view.changed(record)

    def _behind(self, listed: ingest_pb2.InventoryResource) -> bool:
        """Whether the owner is content with an older revision than listed: what told it of the newer was lost."""
        report = self._view.last_report(listed.resource_id)
        return (
            report is not None
            and report.state == resource_pb2.INSTANCE_STATE_CONFIGURED
            and 0 < report.revision < listed.revision
        )

    def _instance(self, instance: ingest_pb2.InventoryInstance, listing: _Listing | None) -> None:
        if listing is None:
            return
        if (finding := _FINDINGS.get(instance.finding)) is not None:
            listing.findings.append(
                query_pb2.Finding(
                    resource_id=instance.resource_id,
                    server_id=instance.server_id,
                    port_id=instance.port_id,
                    finding=finding,
                )
            )
        if instance.finding != ingest_pb2.INSTANCE_FINDING_ORPHAN:
            return
        listing.suspects.add(instance.resource_id)
        if self._index.get(instance.resource_id) is None and instance.tenant_id:
            # Nobody knows it but its instance: its owner cares for it, and treats Neutron's absence with care.
            record = self._index.name(instance.resource_id, instance.tenant_id)
            self._index.confirm(record)
            record.orphan_suspect = True
            self._dispatch.look(record)

    def _end(self, listing: _Listing) -> None:
        for record in [r for r in self._index.records.values() if r.resource_id not in listing.named]:
            if record.resource_id in listing.suspects or record.named_at >= listing.began:
                continue
            record.listed = False
            self._dispatch.look(record)
            if not record.reported:
                # No holder ever spoke of it and Neutron does not list it: the look above is all that it is due.
                self._index.forget(record.resource_id)
                self._view.forget(record)
        self._view.findings, self._view.findings_at = listing.findings, self._clock.wall()
        self.complete = True
        self._taken()
