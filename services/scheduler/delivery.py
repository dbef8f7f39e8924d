"""From an event to a worker's inbox, and back to the producer's ack. Nothing here does I/O.

What is always true of an event whose number was acked to its producer: each hint it became is

- in its owner's inbox (the owner acked the Deliver that held it), or
- a row of the database, which goes only when an owner acked the Deliver that held the hint, or
- worthless (an expired or fleeting POLL or READ).

A shard's hints go to exactly one place at a time: the `Outbox` of the connected owner, or the shard's `Shelf` when
there is none. Both merge, so both are bounded by the number of resources, never by the number of events.

Acks are tracked by batches, not by events: the numbers of events are noted on the *last* unsent batch, whichever batch
holds the hint they merged into. Deliveries are acked in order, so the last one acked means all acked.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from astara.scheduler.v1 import ingest_pb2, work_pb2

from services.common.clock import Clock

from .hints import FLEETING, add_request_id, covers, lasting, merge

BATCH = 1000


class Publisher:
    """The ack side of one Publish stream. `wake` is called when there is something to send."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._acked: list[int] = []
        self._rejected: list[ingest_pb2.Rejection] = []
        self._copies: dict[int, int] = {}
        self.unanswered = 0
        self._room: asyncio.Event | None = None

    async def below(self, credit: int) -> None:
        """Wait until no more than `credit` events are unanswered."""
        while self.unanswered > credit:
            self._room = asyncio.Event()
            await self._room.wait()

    def expect(self, number: int, copies: int) -> None:
        """The event became hints in `copies` places (two or more): it is acked when all of them are kept."""
        self._copies[number] = copies

    def settle(self, numbers: list[int]) -> None:
        """One copy of each of these events is kept."""
        if self._copies:
            numbers = [number for number in numbers if self._last_copy(number)]
        self._acked += numbers
        self.unanswered -= len(numbers)
        self._answered()

    def reject(self, number: int, reason: str) -> None:
        """The event is not accepted."""
        self._rejected.append(ingest_pb2.Rejection(number=number, reason=reason))
        self.unanswered -= 1
        self._answered()

    def take(self) -> ingest_pb2.PublishResponse | None:
        """The next response, None when there is nothing to say."""
        if not self._acked and not self._rejected:
            return None
        response = ingest_pb2.PublishResponse(acked=self._acked, rejected=self._rejected)
        self._acked, self._rejected = [], []
        return response

    def _answered(self) -> None:
        self._wake()
        if self._room is not None:
            self._room.set()

    def _last_copy(self, number: int) -> bool:
        left = self._copies.get(number, 1) - 1
        if left:
            self._copies[number] = left
            return False
        self._copies.pop(number, None)
        return True


References = dict[Publisher, list[int]]


@dataclass(slots=True)
class Facts:
    """What an event says to one resource."""

    resource_id: str
    kind: int
    tenant_id: str
    action: int
    revision: int = 0
    priority: int = 1
    expires_at_ms: int = 0
    request_id: str = ""


def hint_of(facts: Facts) -> work_pb2.Hint:
    """The hint that an event becomes."""
    return work_pb2.Hint(
        resource_id=facts.resource_id,
        kind=facts.kind,  # type: ignore[arg-type]
        tenant_id=facts.tenant_id,
        actions=facts.action,
        revision=facts.revision,
        priority=facts.priority or 1,  # type: ignore[arg-type]
        expires_at_ms=facts.expires_at_ms,
        request_ids=[facts.request_id] if facts.request_id else [],
    )


@dataclass(frozen=True, slots=True)
class MarkRow:
    """A hint as a row."""

    row: int
    resource_id: str
    hint: bytes


@dataclass(slots=True)
class JournalBatch:
    """What one transaction writes; then `references` are settled."""

    rows: list[MarkRow] = field(default_factory=list)
    drop: list[int] = field(default_factory=list)
    references: References = field(default_factory=dict)


class Journal:
    """Hints on their way to the database. Row numbers are given here: a row may go before it was written.

    The owner takes a batch, writes it, and calls `written`, one batch at a time and in order.
    """

    def __init__(self, first_row: int, kept: int, limit: int, wake: Callable[[], None]) -> None:
        """`kept` rows exist already; at `limit` rows events wait for room instead of being acked."""
        self._next = first_row
        self._kept = kept
        self._limit = limit
        self._wake = wake
        self._batch = JournalBatch()
        self._writing = False

    @property
    def kept(self) -> int:
        """How many rows exist or are about to."""
        return self._kept

    def write(self, hint: work_pb2.Hint) -> list[int]:
        """Keep what of a hint must last; answers with its row's number, or nothing when nothing must."""
        kept = lasting(hint)
        if kept is None:
            return []
        row = self._next
        self._next += 1
        self._kept += 1
        self._batch.rows.append(MarkRow(row, hint.resource_id, kept.SerializeToString()))
        self._wake()
        return [row]

    def drop(self, rows: Iterable[int]) -> None:
        """These rows' hints are in an owner's inbox."""
        before = len(self._batch.drop)
        self._batch.drop += rows
        if dropped := len(self._batch.drop) - before:
            self._kept -= dropped
            self._wake()

    def settle(self, references: References) -> None:
        """Settle events once everything that was written before this call is in the database."""
        if not references:
            return
        if not self._writing and not self._batch.rows:
            settle(references)
            return
        add_references(self._batch.references, references)
        self._wake()

    def take(self) -> JournalBatch | None:
        """What is to be written now, or None. While rows are at the limit, only drops go through."""
        batch = self._batch
        if self._writing or not (batch.rows or batch.drop or batch.references):
            return None
        if self._kept > self._limit and batch.rows and not batch.drop:
            return None
        self._writing = True
        self._batch = JournalBatch()
        dropped = set(batch.drop)
        if dropped and batch.rows:
            never = {row.row for row in batch.rows} & dropped
            batch.rows = [row for row in batch.rows if row.row not in never]
            batch.drop = [row for row in batch.drop if row not in never]
        return batch

    def written(self, batch: JournalBatch) -> None:
        """The batch is in the database."""
        self._writing = False
        settle(batch.references)


def come_back(hint: work_pb2.Hint, rows: list[int], journal: Journal, route: "Destination") -> None:
    """A hint comes back from an outbox: it is written as it is now, then goes where its shard's hints go.

    Its rows may say less than it does, for events merge into a hint that is a row already; the new row replaces them.
    Events that wait for it may then be settled through the journal.
    """
    fresh = journal.write(hint)
    journal.drop(rows)
    route.put(hint, fresh)


def settle(references: References) -> None:
    """Tell the producers."""
    for publisher, numbers in references.items():
        publisher.settle(numbers)


def add_references(into: References, more: References) -> None:
    """Add events to those that wait for the same thing."""
    for publisher, numbers in more.items():
        into.setdefault(publisher, []).extend(numbers)


class Destination(Protocol):
    """Where a shard's hints go at present."""

    def add(self, facts: Facts, publisher: Publisher, number: int) -> None:
        """Take an event and settle it when it cannot be lost any more."""
        ...

    def put(self, hint: work_pb2.Hint, rows: list[int]) -> None:
        """Take a hint that nobody waits for, with the rows that hold it already."""
        ...


class Shelf:
    """Hints of one shard while it has no connected owner. Each is a row, except those that only matter now."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._hints: dict[str, work_pb2.Hint] = {}
        self._rows: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self._hints)

    def add(self, facts: Facts, publisher: Publisher, number: int) -> None:
        """Keep the event as a row and settle it when the row is written."""
        if facts.action & ~FLEETING:
            self.put(hint_of(facts), [])
        self._journal.settle({publisher: [number]})

    def put(self, hint: work_pb2.Hint, rows: list[int]) -> None:
        """Keep a hint; it is written unless `rows` hold it or what is kept already says as much."""
        if not hint.actions & ~FLEETING and not hint.operations:
            return
        mine = self._rows.setdefault(hint.resource_id, [])
        known = self._hints.get(hint.resource_id)
        news = known is None or not covers(known, hint)
        if rows:
            mine += rows
        elif news:
            mine += self._journal.write(hint)
        if known is None:
            self._hints[hint.resource_id] = hint
        else:
            merge(known, hint)

    def take(self) -> list[tuple[work_pb2.Hint, list[int]]]:
        """Everything, with its rows; the shelf is empty then."""
        hints = [(hint, self._rows.get(resource_id, [])) for resource_id, hint in self._hints.items()]
        self._hints, self._rows = {}, {}
        return hints


class _Batch:
    """One Deliver, from its first hint until it is acked."""

    __slots__ = ("began", "hints", "message", "number", "references", "rows")

    def __init__(self, began: float) -> None:
        self.message = work_pb2.WorkResponse()
        self.hints = self.message.deliver.hints
        self.references: References = {}
        self.rows: dict[str, list[int]] = {}
        self.number = 0
        self.began = began


class Outbox:
    """Hints for one worker's stream: a queue of unsent batches that merge, and a bounded number of unacked ones.

    When the worker is late with its acks, what it has not acked is written as rows too, and producers are answered: a
    slow worker holds nobody's messages. This lasts until the worker has acked everything.
    """

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        wake: Callable[[], None],
        *,
        shard_of: Callable[[str], int],
        window: int,
        late_seconds: float,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._wake = wake
        self._shard_of = shard_of
        self._window = window
        self._late = late_seconds
        self._known: dict[str, work_pb2.Hint] = {}
        self._queue: deque[_Batch] = deque()
        self._sent: deque[_Batch] = deque()
        self._number = 0
        self._rows_too = False
        self.leaving: set[int] = set()
        """Shards that this worker was told to release: what it acks for them goes to the next owner as well."""
        self.on_leaving: Callable[[int, work_pb2.Hint], None] | None = None
        self.image_of: Mapping[str, str] = {}
        """Overrides of images by resource, as they are when a hint leaves."""

    @property
    def unacked(self) -> int:
        """Hints sent and not yet acked."""
        return sum(len(batch.hints) for batch in self._sent)

    def add(self, facts: Facts, publisher: Publisher, number: int) -> None:
        """Queue an event; it is settled when the worker acked it, or when it became a row."""
        if self._rows_too:
            self.put(hint_of(facts), [])
            self._journal.settle({publisher: [number]})
            return
        hint = self._known.get(facts.resource_id)
        if hint is None:
            batch = self._tail()
            self._known[facts.resource_id] = hint = batch.hints.add()
            hint.resource_id = facts.resource_id
            hint.kind = facts.kind  # type: ignore[assignment]
            hint.tenant_id = facts.tenant_id
            hint.actions = facts.action
            hint.priority = facts.priority or 1  # type: ignore[assignment]
            if facts.revision:
                hint.revision = facts.revision
            if facts.expires_at_ms:
                hint.expires_at_ms = facts.expires_at_ms
            if facts.request_id:
                hint.request_ids.append(facts.request_id)
        else:
            batch = self._queue[-1]
            self._merge(hint, facts)
        references = batch.references
        numbers = references.get(publisher)
        if numbers is None:
            references[publisher] = [number]
        else:
            numbers.append(number)

    def put(self, hint: work_pb2.Hint, rows: list[int]) -> None:
        """Queue a hint."""
        known = self._known.get(hint.resource_id)
        news = known is None or not covers(known, hint)
        if known is None:
            self._known[hint.resource_id] = known = self._tail().hints.add()
            known.CopyFrom(hint)
        else:
            merge(known, hint)
        batch = self._queue[-1]
        if not rows and self._rows_too and news:
            rows = self._journal.write(hint)
        if rows:
            batch.rows.setdefault(hint.resource_id, []).extend(rows)

    def take(self) -> work_pb2.WorkResponse | None:
        """The next Deliver to send; None when there is none or the window is full."""
        if not self._queue or len(self._sent) >= self._window:
            return None
        batch = self._queue.popleft()
        if self._queue:
            for hint in batch.hints:
                del self._known[hint.resource_id]
        else:
            self._known = {}
        if self.image_of:
            for hint in batch.hints:
                hint.image_id = self.image_of.get(hint.resource_id, "")
        self._number += 1
        batch.number = batch.message.deliver.number = self._number
        self._sent.append(batch)
        return batch.message

    def ack(self, number: int) -> None:
        """Deliveries up to `number` are in the inbox."""
        room = len(self._sent) >= self._window
        while self._sent and self._sent[0].number <= number:
            batch = self._sent.popleft()
            if self.leaving and self.on_leaving is not None:
                # The worker may drop its inbox for these shards without another look.
                for hint in batch.hints:
                    if (shard := self._shard_of(hint.tenant_id)) in self.leaving:
                        self.on_leaving(shard, hint)
            for rows in batch.rows.values():
                self._journal.drop(rows)
            self._journal.settle(batch.references)
        if not self._sent and not self._queue:
            self._rows_too = False
        if room and self._queue:
            self._wake()

    def check_late(self) -> bool:
        """When the oldest unacked hint is too old, write all as rows and settle; True when that happened now."""
        unacked = self._sent or self._queue
        if self._rows_too or not unacked or self._clock.lease() - unacked[0].began < self._late:
            return False
        self._rows_too = True
        for batch in (*self._sent, *self._queue):
            for hint in batch.hints:
                # Rows that it has already may say less than the hint does: events have merged into it since.
                batch.rows.setdefault(hint.resource_id, []).extend(self._journal.write(hint))
            self._journal.settle(batch.references)
            batch.references = {}
        return True

    def withdraw(self, shards: set[int]) -> tuple[list[tuple[work_pb2.Hint, list[int]]], References]:
        """Take out the unsent hints of these shards, with their rows, and the events that wait for nothing else.

        The caller shelves the hints and then settles the events through the journal.
        """
        taken: list[tuple[work_pb2.Hint, list[int]]] = []
        stay: deque[_Batch] = deque()
        waiting: References = {}
        for batch in self._queue:
            fresh = _Batch(batch.began)
            fresh.rows, fresh.references = batch.rows, batch.references
            for hint in batch.hints:
                if self._shard_of(hint.tenant_id) in shards:
                    taken.append((hint, self._rows_of(hint.resource_id)))
                    del self._known[hint.resource_id]
                else:
                    kept = self._known[hint.resource_id] = fresh.hints.add()
                    kept.CopyFrom(hint)
            if fresh.hints:
                stay.append(fresh)
                continue
            # References of an emptied batch may be for hints of batches before it: they go to the one before.
            add_references(stay[-1].references if stay else waiting, fresh.references)
            # What rows are left are of hints in batches before it.
            before = stay or self._sent
            for resource_id, rows in fresh.rows.items():
                if before:
                    before[-1].rows.setdefault(resource_id, []).extend(rows)
                else:
                    self._journal.drop(rows)
        self._queue = stay
        return taken, waiting

    def close(self) -> tuple[list[tuple[work_pb2.Hint, list[int]]], References]:
        """The stream ended: all hints that were not acked, with their rows, and the events that wait for them."""
        rows: dict[str, list[int]] = {}
        references: References = {}
        batches = (*self._sent, *self._queue)
        for batch in batches:
            add_references(references, batch.references)
            for resource_id, numbers in batch.rows.items():
                rows.setdefault(resource_id, []).extend(numbers)
        hints = [(hint, rows.pop(hint.resource_id, [])) for batch in batches for hint in batch.hints]
        for acked_already in rows.values():
            self._journal.drop(acked_already)
        self._sent.clear()
        self._queue.clear()
        self._known = {}
        return hints, references

    def _rows_of(self, resource_id: str) -> list[int]:
        return [row for batch in self._queue for row in batch.rows.pop(resource_id, [])]

    def _tail(self) -> _Batch:
        queue = self._queue
        if queue and len(queue[-1].hints) < BATCH:
            return queue[-1]
        batch = _Batch(self._clock.lease())
        queue.append(batch)
        self._wake()
        return batch

    @staticmethod
    def _merge(hint: work_pb2.Hint, facts: Facts) -> None:
        hint.actions |= facts.action
        hint.revision = max(hint.revision, facts.revision)
        hint.priority = max(hint.priority, facts.priority)  # type: ignore[assignment]
        if hint.expires_at_ms:
            hint.expires_at_ms = max(hint.expires_at_ms, facts.expires_at_ms) if facts.expires_at_ms else 0
        if facts.request_id:
            add_request_id(hint, facts.request_id)
