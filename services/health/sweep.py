"""When to list and when to poll. Runs only while the scheduler listens to this lister; nothing that fails ends it."""

import asyncio
import math

from astara.event.v1 import event_pb2 as pb
from astara.scheduler.v1 import ingest_pb2 as ingest

from services.common import logging
from services.common.clock import Clock
from services.common.publisher import Publisher

from . import metrics
from .inventory import Findings, Inventory, SuspiciousError
from .listing import ListingError
from .settings import HealthSettings
from .stream import InventoryStream

_NAMES = {ingest.INSTANCE_FINDING_SURPLUS: "surplus", ingest.INSTANCE_FINDING_ORPHAN: "orphan"}
# Where looks cost whole listings, they take at most this share of the time.
_DUTY = 0.1
_POLL_TICK = 0.25

_log = logging.get(__name__)


class Sweep:
    """Full listings, looks at what changed, and polls."""

    def __init__(
        self,
        inventory: Inventory,
        stream: InventoryStream,
        publisher: Publisher,
        settings: HealthSettings,
        clock: Clock,
        news: asyncio.Event,
    ) -> None:
        """`news` is set whenever the stream's state changes."""
        self._inventory = inventory
        self._stream = stream
        self._publisher = publisher
        self._settings = settings
        self._clock = clock
        self._news = news
        self._full_at = -math.inf
        self._changed_at = -math.inf
        self._told: set[tuple[str, str, str]] = set()

    async def run(self) -> None:
        """List as long as the scheduler listens; ends only by cancellation."""
        while True:
            self._news.clear()
            metrics.LISTENING.set(self._stream.listening)
            if not self._stream.listening:
                await self._news.wait()
                continue
            if self._stream.list_now:
                self._full_at = -math.inf
            now = self._clock.lease()
            if now >= self._full_at:
                await self._list(full=True)
            elif now >= self._changed_at:
                await self._list(full=False)
            else:
                await self._pause(min(self._full_at, self._changed_at) - now)

    async def poll(self) -> None:
        """Publish a POLL for each resource once a period, evenly; ends only by cancellation."""
        period = self._settings.poll_interval
        if not period:
            await asyncio.Event().wait()
        while True:
            ids = sorted(self._inventory.resources)
            began, done = self._clock.lease(), 0
            while (elapsed := self._clock.lease() - began) < period:
                due = math.ceil(len(ids) * elapsed / period)
                while done < due:
                    if self._stream.listening:
                        await self._publisher.publish(self._poll_event(ids[done], period))
                        metrics.POLLS.inc()
                    done += 1
                await asyncio.sleep(min(_POLL_TICK, period / 10))

    def _poll_event(self, resource_id: str, period: float) -> pb.Event:
        now = self._clock.wall()
        event = pb.Event(kind=pb.EVENT_KIND_POLL, priority=pb.PRIORITY_RESYNC, source="health.poll")
        event.subject.resource_id = resource_id
        known = self._inventory.resources.get(resource_id)
        if known is not None:
            event.subject.project_id = known.tenant_id
        event.occurred_at.FromMilliseconds(int(now * 1000))
        # The next period brings another one: more than one outstanding is worth nothing.
        event.expires_at.FromMilliseconds(int((now + period) * 1000))
        return event

    async def _list(self, *, full: bool) -> None:
        kind = "full" if full else "changed"
        wanted = self._stream.list_now
        if full:
            self._stream.list_now = False
        began = self._clock.lease()
        settings = self._settings
        self._changed_at = began + settings.changed_interval
        try:
            found = await (self._inventory.full() if full else self._inventory.changed())
        except Exception as error:
            # Whatever the cloud answers, the next look comes; the inventory that was told stays.
            suspicious = isinstance(error, SuspiciousError)
            metrics.LISTINGS.labels(kind, "suspicious" if suspicious else "failed").inc()
            expected = isinstance(error, ListingError | SuspiciousError)
            _log.warning("a listing failed", kind=kind, error=str(error), exc_info=None if expected else error)
            if full:
                self._full_at = self._clock.lease() + min(settings.changed_interval, settings.full_interval)
            return
        took = self._clock.lease() - began
        metrics.SECONDS.labels(kind).set(took)
        metrics.RESOURCES.set(len(self._inventory.resources))
        if full:
            self._full_at = began + settings.full_interval
        if self._inventory.lists_whole:
            self._changed_at = max(self._changed_at, began + took / _DUTY)
        if await self._tell(found, full=full):
            metrics.LISTINGS.labels(kind, "taken").inc()
        else:
            metrics.LISTINGS.labels(kind, "unheard").inc()
            # The next stream asks for everything by itself.
            self._stream.list_now = self._stream.list_now or wanted

    async def _tell(self, found: Findings, *, full: bool) -> bool:
        if full:
            self._report(found.instances)
        elif found.resources:
            metrics.MOVED.labels("resource").inc(len(found.resources))
        if (full or found.resources) and not await self._stream.send(found.resources, found.instances, full=full):
            return False
        await self._hint(pb.EVENT_KIND_UPDATE, "touched", found.touched)
        await self._hint(pb.EVENT_KIND_DELETE, "gone", found.gone)
        for network_id in found.networks:
            metrics.MOVED.labels("network").inc()
            event = pb.Event(kind=pb.EVENT_KIND_UPDATE, priority=pb.PRIORITY_RESYNC, source="health.ports")
            event.subject.network_id = network_id
            event.subject.scope = pb.ATTACHMENT_SCOPE_INTERNAL
            await self._publisher.publish(event)
        return True

    async def _hint(self, kind: "pb.EventKind.ValueType", what: str, resources: list[ingest.InventoryResource]) -> None:
        for one in resources:
            metrics.MOVED.labels(what).inc()
            event = pb.Event(kind=kind, priority=pb.PRIORITY_RESYNC, source="health.changes")
            event.subject.resource_id, event.subject.project_id = one.resource_id, one.tenant_id
            await self._publisher.publish(event)

    def _report(self, instances: list[ingest.InventoryInstance]) -> None:
        """Say what nobody needs, once; nothing is removed."""
        told = set()
        for name in _NAMES.values():
            metrics.FINDINGS.labels(name).set(sum(_NAMES.get(one.finding) == name for one in instances))
        for one in instances:
            if one.finding not in _NAMES:
                continue
            name = _NAMES[one.finding]
            fact = (name, one.server_id, one.port_id)
            told.add(fact)
            if fact not in self._told:
                _log.warning(
                    "found what nobody needs",
                    finding=name,
                    resource=one.resource_id,
                    server=one.server_id,
                    port=one.port_id,
                )
        self._told = told

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return
