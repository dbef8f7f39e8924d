"""The leader's ways to the database that run beside the event path: hints as rows, epochs in reserve, history."""

import time
from collections.abc import Iterable

from astara.scheduler.v1 import work_pb2

from services.common.clock import Clock

from .delivery import JournalBatch
from .metrics import HISTORY_DROPPED, JOURNAL, JOURNALED
from .settings import SchedulerSettings
from .store import Store

_RESERVE = 8192
_LOW = 2048
_DAY = 86_400.0


async def write_marks(store: Store, batch: JournalBatch) -> None:
    """Write a batch of hints and drop those that owners have."""
    began = time.perf_counter()
    if batch.rows or batch.drop:
        await store.write_marks(batch)
    JOURNAL.observe(time.perf_counter() - began)
    JOURNALED.inc(len(batch.rows))


class EpochReserve:
    """Counters that are durable before they are given out, reserved in blocks so that a grant waits for no write."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._blocks: list[range] = []

    def take(self) -> int | None:
        """The next counter; None when none is in reserve."""
        while self._blocks:
            block = self._blocks[0]
            if block:
                self._blocks[0] = block[1:]
                return block[0]
            del self._blocks[0]
        return None

    def low(self) -> bool:
        """Whether it is time to `fill`."""
        return sum(len(block) for block in self._blocks) < _LOW

    async def fill(self) -> None:
        """Reserve another block when few are left; enough for every shard twice."""
        if self.low():
            self._blocks.append(await self._store.reserve_epochs(_RESERVE))


class HistoryBuffer:
    """Lines of history on their way to the database; bounded, what does not fit is counted and dropped."""

    def __init__(self, store: Store, clock: Clock, settings: SchedulerSettings) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._lines: list[tuple[str, work_pb2.HistoryEntry]] = []
        self._touched: set[str] = set()

    def add(self, worker: str, entries: Iterable[work_pb2.HistoryEntry]) -> None:
        """Lines that a worker wrote."""
        for entry in entries:
            if len(self._lines) >= self._settings.history_buffer:
                HISTORY_DROPPED.inc()
                continue
            copy = work_pb2.HistoryEntry()
            copy.CopyFrom(entry)
            self._lines.append((worker, copy))

    async def flush(self) -> None:
        """Write what has come."""
        if self._lines:
            lines, self._lines = self._lines, []
            await self._store.add_history(lines)
            self._touched.update(entry.resource_id for _, entry in lines)

    async def prune(self) -> None:
        """Let go of what is too old or too much."""
        now = self._clock.wall()
        touched, self._touched = self._touched, set()
        await self._store.prune(
            history_before_ms=int((now - self._settings.history_days * _DAY) * 1000),
            operations_before=now - self._settings.operations_kept_days * _DAY,
            resources=touched,
            per_resource=self._settings.history_per_resource,
        )
