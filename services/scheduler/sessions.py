"""One worker's open Work stream, as the rest of the scheduler sees it: what to send, and what it said of itself."""

import asyncio
from collections import deque

from astara.scheduler.v1 import work_pb2

from .delivery import Outbox
from .metrics import DELIVERED, DELIVERIES
from .ownership import Key


class Session:
    """Messages leave in the order in which they were given: control messages first, then hints.

    A grant is given before the shard's first hint and a revoke after its last is withdrawn, so hints never overtake
    what they depend on.
    """

    def __init__(self, key: Key, hello: work_pb2.Hello, joined_at: float) -> None:
        self.key = key
        self.hello = hello
        self.joined_at = joined_at
        self.renewed_at = joined_at
        self.reported = False
        self.claimed = 0
        self.outbox: Outbox
        self.ended: str | None = None
        """Why the scheduler ends the stream; None while it is open."""
        self._control: deque[work_pb2.WorkResponse] = deque()
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    def send(self, message: work_pb2.WorkResponse) -> None:
        """Send a control message."""
        self._control.append(message)
        self._wake.set()

    def end(self, reason: str) -> None:
        """End the stream."""
        if self.ended is None:
            self.ended = reason
        self._wake.set()

    async def next(self) -> work_pb2.WorkResponse | None:
        """The next message to send; None when the stream is to end."""
        while self.ended is None:
            if self._control:
                return self._control.popleft()
            if (message := self.outbox.take()) is not None:
                DELIVERIES.inc()
                DELIVERED.inc(len(message.deliver.hints))
                return message
            self._wake.clear()
            await self._wake.wait()
        return None
