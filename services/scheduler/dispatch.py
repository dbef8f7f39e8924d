"""From events to hints in the right place: which resources, which shard, which outbox or shelf.

This is the scheduler's hot path: an event that names a known resource costs a few dictionary look-ups and no object of
asyncio. Everything else takes the slow path below it.
"""

from collections.abc import Callable, Sequence

from astara.event.v1 import event_pb2
from astara.scheduler.v1 import ingest_pb2, work_pb2

from services.common.clock import Clock
from services.common.marks import is_safe_id

from .delivery import Destination, Facts, Publisher, hint_of
from .hints import DELETE, UPDATE
from .index import Index, Record
from .metrics import EVENTS
from .unmatched import Unmatched

_POLL = event_pb2.EVENT_KIND_POLL
_READ = event_pb2.EVENT_KIND_READ
_UPDATE = event_pb2.EVENT_KIND_UPDATE
_CREATE = event_pb2.EVENT_KIND_CREATE
_FLEETING = frozenset((_POLL, _READ))
_PLAIN = frozenset((_CREATE, _UPDATE, _READ, _POLL))
_ID_FIELDS = ("resource_id", "project_id", "network_id", "subnet_id", "port_id", "floating_ip_id")
_COMMANDS = (event_pb2.EVENT_KIND_COMMAND, event_pb2.EVENT_KIND_REBUILD)

Commands = Callable[[event_pb2.Event, Publisher, int], None]


class Dispatch:
    """Takes events from producers and hints from inside. `routes` says for each shard where its hints go now."""

    def __init__(
        self, index: Index, unmatched: Unmatched, routes: Sequence[Destination], clock: Clock, commands: Commands
    ) -> None:
        """`commands` takes COMMAND and REBUILD events: what cannot be derived again becomes an operation."""
        self._index = index
        self._unmatched = unmatched
        self._routes = routes
        self._clock = clock
        self._commands = commands
        self.withheld: set[str] = set()
        """Resources in quarantine: they get no hints."""

    def take(self, publisher: Publisher, request: ingest_pb2.PublishRequest) -> None:
        """A batch of events; each number is settled or rejected, now or later, exactly once."""
        records, routes, withheld = self._index.records, self._routes, self.withheld
        number = request.first_number
        direct = 0
        for event in request.events:
            subject = event.subject
            kind = event.kind
            record = records.get(subject.resource_id)
            # Kept lean on purpose: see bench/. A hint's expiry is looked at only where it can count.
            if (
                record is not None
                and kind in _PLAIN
                and not subject.network_id
                and not subject.floating_ip_id
                and record.resource_id not in withheld
                and (kind not in _FLEETING or not event.HasField("expires_at"))
            ):
                facts = Facts(
                    record.resource_id,
                    record.kind,
                    record.tenant_id,
                    1 << (kind - 1),
                    event.revision,
                    event.priority,
                    0,
                    event.request_id,
                )
                routes[record.shard].add(facts, publisher, number)
                direct += 1
            else:
                self._slow(event, publisher, number)
            number += 1
        if direct:
            EVENTS.labels("direct").inc(direct)
        self.match_unmatched()

    def give(self, record: Record, action: int, priority: int) -> None:
        """A hint from the scheduler itself."""
        self.put(self.hint(record, action, priority), record.shard)

    @staticmethod
    def hint(record: Record, action: int, priority: int) -> work_pb2.Hint:
        """A hint for a resource."""
        return hint_of(Facts(record.resource_id, record.kind, record.tenant_id, action, 0, priority))

    def look(self, record: Record) -> None:
        """Have the owner look at a resource when there is nothing more urgent; it is told again of a DELETE."""
        self.give(record, UPDATE | (DELETE if record.deleted else 0), event_pb2.PRIORITY_RESYNC)

    def put(self, hint: work_pb2.Hint, shard: int) -> None:
        """Bring a hint to where its shard's hints go."""
        if hint.resource_id not in self.withheld:
            self._routes[shard].put(hint, [])

    def match_unmatched(self) -> None:
        """Deliver kept events that name what has become known since."""
        while self._index.appeared:
            keys, self._index.appeared = self._index.appeared, []
            for event in self._unmatched.named(keys):
                records = self._concerned(event)
                if not records:
                    self._unmatched.keep(event)
                    continue
                EVENTS.labels("matched").inc()
                for record in records:
                    self.put(hint_of(self._facts(record, event)), record.shard)

    def _slow(self, event: event_pb2.Event, publisher: Publisher, number: int) -> None:
        if event.kind == event_pb2.EVENT_KIND_UNSPECIFIED or event.kind > event_pb2.EVENT_KIND_COMMAND:
            EVENTS.labels("rejected").inc()
            publisher.reject(number, f"kind: {event.kind} is not a kind of event")
            return
        if (wrong := _unsafe_field(event.subject)) is not None:
            EVENTS.labels("rejected").inc()
            publisher.reject(number, f"subject.{wrong}: not an id of OpenStack (letters, digits, - and _, at most 64)")
            return
        if event.kind in _COMMANDS:
            EVENTS.labels("command").inc()
            self._commands(event, publisher, number)
            return
        if event.kind in _FLEETING and self._expired(event):
            EVENTS.labels("expired").inc()
            publisher.settle([number])
            return
        if _is_old_news(event) and event.subject.resource_id not in self._index.records:
            EVENTS.labels("old").inc()
            publisher.settle([number])
            return
        concerned = self._concerned(event)
        records = [record for record in concerned if record.resource_id not in self.withheld]
        if concerned and not records:
            EVENTS.labels("withheld").inc()
            publisher.settle([number])
            return
        if not records:
            # Acked although it is kept in memory only: what it speaks of is found by the next full inventory.
            EVENTS.labels("unmatched" if self._unmatched.keep(event) else "nameless").inc()
            publisher.settle([number])
            return
        if len(records) > 1:
            publisher.expect(number, len(records))
        EVENTS.labels("resolved").inc()
        for record in records:
            self._routes[record.shard].add(self._facts(record, event), publisher, number)

    def _concerned(self, event: event_pb2.Event) -> Sequence[Record]:
        subject = event.subject
        if not subject.resource_id:
            if subject.subnet_id and subject.network_id:
                self._index.learn_subnet(subject.subnet_id, subject.network_id)
            return [self._index.records[resource_id] for resource_id in sorted(self._index.resolve(subject))]
        record = self._index.get(subject.resource_id)
        if record is None:
            # The project says the shard; whether the resource is ours to manage is for its owner to find out.
            if not subject.project_id:
                return []
            record = self._index.name(subject.resource_id, subject.project_id)
            record.named_at = self._clock.lease()
        if event.kind == event_pb2.EVENT_KIND_DELETE:
            record.deleted = True
        elif subject.network_id or subject.floating_ip_id:
            self._index.learn(record, subject)
        return [record]

    @staticmethod
    def _facts(record: Record, event: event_pb2.Event) -> Facts:
        fleeting = event.kind in _FLEETING and event.HasField("expires_at")
        return Facts(
            record.resource_id,
            record.kind,
            record.tenant_id,
            1 << (event.kind - 1),
            event.revision if event.subject.resource_id else 0,
            event.priority,
            event.expires_at.ToMilliseconds() if fleeting else 0,
            event.request_id,
        )

    def _expired(self, event: event_pb2.Event) -> bool:
        return event.HasField("expires_at") and event.expires_at.ToNanoseconds() / 1e9 <= self._clock.wall()


def _unsafe_field(subject: event_pb2.Subject) -> str | None:
    """The field of a subject that holds what is no id, if one does. Ids that the index knows came through here."""
    for name in _ID_FIELDS:
        text = getattr(subject, name)
        if text and not is_safe_id(text):
            return name
    return None


def _is_old_news(event: event_pb2.Event) -> bool:
    """Whether a listing tells of a deletion: what nobody knows any more has been removed since it was announced."""
    return event.kind == event_pb2.EVENT_KIND_DELETE and event.priority == event_pb2.PRIORITY_RESYNC
