"""Messages that came from the broker and are not acked yet, and which acks may be sent.

A message is settled when the scheduler has answered all its events. Acks are cumulative where the messages before
it are settled too, which is nearly always, and single otherwise, so that one slow answer holds nobody else's.
"""

from collections.abc import Callable
from typing import Any

from astara.event.v1 import event_pb2 as pb


class Delivery:
    """One message. `session` is the connection that brought it: a tag means nothing on another one."""

    __slots__ = ("_open", "_settled", "events", "message", "reason", "session", "tag")

    def __init__(
        self,
        session: int,
        tag: int,
        message: Any,
        settled: "Callable[[Delivery], None]",
    ) -> None:
        self.session = session
        self.tag = tag
        self.message = message
        self.events: list[pb.Event] = []
        # Why it was refused; the last reason when there are several.
        self.reason: str | None = None
        self._open = 0
        self._settled = settled

    def expect(self, events: list[pb.Event]) -> None:
        """Say which events it is made of; as many answers will come."""
        self.events = events
        self._open = len(events)

    def answered(self, reason: str | None) -> None:
        """Take the answer to one of the events."""
        if reason is not None:
            self.reason = reason
        self._open -= 1
        if self._open == 0:
            self._settled(self)


class Acks:
    """Which delivery tags of one channel may be acked. Tags count from 1."""

    def __init__(self) -> None:
        # All tags up to here are acked.
        self._floor = 0
        self._done: set[int] = set()
        # Acked one by one, above the floor.
        self._single: set[int] = set()
        self.unacked = 0

    def delivered(self) -> None:
        """Count a message that came."""
        self.unacked += 1

    def done(self, tag: int) -> None:
        """A message needs no more."""
        self._done.add(tag)

    def take(self) -> list[tuple[int, bool]]:
        """The acks to send now: (tag, whether all before it are meant too)."""
        acks: list[tuple[int, bool]] = []
        if not self._done:
            return acks
        self.unacked -= len(self._done)
        last = 0
        while True:
            tag = self._floor + 1
            if tag in self._done:
                self._done.discard(tag)
                last = tag
            elif tag in self._single:
                self._single.discard(tag)
            else:
                break
            self._floor = tag
        if last:
            # The tag itself must be one that is not acked yet: brokers refuse to ack a message twice.
            acks.append((last, True))
        acks.extend((tag, False) for tag in sorted(self._done))
        self._single |= self._done
        self._done.clear()
        return acks
