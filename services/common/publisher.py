"""The client of IngestService.Publish that the notifier and health share.

True at all times: an event that was submitted is answered exactly once, through its callback, after the scheduler acked
or rejected it; a broken stream leaves it here, and it goes out first on the next one. Order is kept, and nothing is
dropped but an expired POLL or READ. Never more events are unanswered than the scheduler's credit allows.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import grpc.aio
from astara.event.v1.event_pb2 import Event
from astara.scheduler.v1 import ingest_pb2 as ingest
from astara.scheduler.v1.ingest_pb2_grpc import IngestServiceStub

from services.common import logging, rpc
from services.common.clock import Clock

# Called with None when the event is kept, with the scheduler's words when it is refused.
Answered = Callable[[str | None], None]

MAX_BATCH = 500

_Item = tuple[Event, Answered | None]
_log = logging.get(__name__)


class Publisher:
    """Publishes events to the scheduler over one stream at a time. Everything but the constructor wants the loop."""

    def __init__(
        self, channel: grpc.aio.Channel, producer: str, clock: Clock, *, changed: Callable[[], None] | None = None
    ) -> None:
        """`changed` is called whenever `connected` changes."""
        self._stub: Any = IngestServiceStub(channel)
        self._producer = producer
        self._clock = clock
        self._changed = changed
        self._queue: deque[_Item] = deque()
        self._unanswered: dict[int, _Item] = {}
        self._credit = 0
        self._next = 1
        self._resync = False
        # The number from which on an answer proves that the scheduler has read our wish to resync; 0: no doubt.
        self._resync_doubt = 0
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self.connected = False

    @property
    def unanswered(self) -> int:
        """Events submitted and not yet answered, sent or not."""
        return len(self._queue) + len(self._unanswered)

    def submit(self, event: Event, answered: Answered | None = None) -> None:
        """Hand over one event without waiting; the caller bounds how many it hands over."""
        self._queue.append((event, answered))
        self._work.set()

    async def publish(self, event: Event, answered: Answered | None = None) -> None:
        """Hand over one event as soon as the scheduler has credit for it."""
        while self._credit <= self.unanswered:
            self._room.clear()
            await self._room.wait()
        self.submit(event, answered)

    def request_resync(self) -> None:
        """Say that events may have been missed: the scheduler will have health list everything."""
        self._resync = True
        self._work.set()

    async def run(self) -> None:
        """Keep a stream to the scheduler; ends only by cancellation."""
        attempt = 0
        while True:
            try:
                await self._stream()
                reason = "the scheduler ended the stream"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            if self.connected:
                attempt = 0
                _log.warning("lost the scheduler", reason=reason, unanswered=self.unanswered)
            elif attempt == 0:
                _log.warning("cannot reach the scheduler", reason=reason)
            attempt += 1
            self._set_connected(connected=False)
            self._take_back()
            await rpc.reconnect_delay(attempt)

    async def _stream(self) -> None:
        call = self._stub.Publish()
        # The scheduler learns who publishes from the first request; it answers with the credit.
        first = ingest.PublishRequest(producer=self._producer, first_number=1)
        writer: asyncio.Task[None] | None = None
        try:
            await call.write(first)
            while True:
                response = await call.read()
                if response is grpc.aio.EOF:
                    break
                if response.credit:
                    self._credit = response.credit
                if writer is None:
                    self._set_connected(connected=True)
                    self._work.set()
                    writer = asyncio.create_task(self._write(call))
                self._take_answers(response)
            status = await call.code()
            if status is not grpc.StatusCode.OK:
                raise grpc.aio.AioRpcError(
                    status, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
                )
        finally:
            call.cancel()
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, call: Any) -> None:
        """Send while there is credit. What gathers while one batch is written makes the next one."""
        while True:
            await self._work.wait()
            self._work.clear()
            while True:
                room = min(self._credit - len(self._unanswered), MAX_BATCH)
                batch = self._take_batch(room) if room > 0 and self._queue else []
                if not batch and not self._resync:
                    break
                request = ingest.PublishRequest(
                    producer=self._producer, first_number=self._next - len(batch), events=batch, resync=self._resync
                )
                if self._resync:
                    self._resync = False
                    self._resync_doubt = self._next
                try:
                    await call.write(request)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    # The reader meets the same end, with its reason.
                    return

    def _take_batch(self, room: int) -> list[Event]:
        batch: list[Event] = []
        queue, unanswered = self._queue, self._unanswered
        now_ms = 0
        while queue and len(batch) < room:
            item = queue.popleft()
            event, answered = item
            if event.HasField("expires_at"):
                now_ms = now_ms or int(self._clock.wall() * 1000)
                if event.expires_at.ToMilliseconds() <= now_ms:
                    if answered is not None:
                        answered(None)
                    continue
            unanswered[self._next] = item
            self._next += 1
            batch.append(event)
        return batch

    def _take_answers(self, response: ingest.PublishResponse) -> None:
        pop = self._unanswered.pop
        for number in response.acked:
            item = pop(number, None)
            if item is not None and item[1] is not None:
                item[1](None)
        for rejection in response.rejected:
            item = pop(rejection.number, None)
            if item is not None and item[1] is not None:
                item[1](rejection.reason)
        if self._resync_doubt and _reaches(response, self._resync_doubt):
            self._resync_doubt = 0
        if self._queue:
            self._work.set()
        if self._credit > self.unanswered:
            self._room.set()

    def _take_back(self) -> None:
        """Put what the ended stream left unanswered in front again, in order."""
        self._queue.extendleft(reversed(self._unanswered.values()))
        self._unanswered.clear()
        self._credit = 0
        self._next = 1
        if self._resync_doubt:
            self._resync, self._resync_doubt = True, 0

    def _set_connected(self, *, connected: bool) -> None:
        if self.connected != connected:
            self.connected = connected
            if connected:
                _log.info("connected to the scheduler", credit=self._credit, waiting=len(self._queue))
            if self._changed is not None:
                self._changed()


def _reaches(response: ingest.PublishResponse, number: int) -> bool:
    answered: Iterable[int] = (*response.acked, *(rejection.number for rejection in response.rejected))
    return any(one >= number for one in answered)
