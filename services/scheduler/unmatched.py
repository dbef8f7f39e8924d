"""Events that match no known resource, kept for a while until an inventory or a status report names what they name.

They are acked at once: a resync covers whatever is lost with this memory. Count and age are bounded.
"""

from collections import OrderedDict
from collections.abc import Iterable

from astara.event.v1 import event_pb2

from services.common.clock import Clock


class Unmatched:
    """Events by the ids that they name."""

    def __init__(self, clock: Clock, *, seconds: float, limit: int) -> None:
        self._clock = clock
        self._seconds = seconds
        self._limit = limit
        self._events: OrderedDict[int, tuple[float, event_pb2.Event]] = OrderedDict()
        self._by_key: dict[str, set[int]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._events)

    def keep(self, event: event_pb2.Event) -> bool:
        """Keep an event; False when it names nothing that could ever be named."""
        keys = _keys(event.subject)
        if not keys or not self._limit:
            return False
        self._next += 1
        copy = event_pb2.Event()
        copy.CopyFrom(event)  # a reference would keep the whole batch it came in
        self._events[self._next] = (self._clock.lease() + self._seconds, copy)
        for key in keys:
            self._by_key.setdefault(key, set()).add(self._next)
        if len(self._events) > self._limit:
            self._drop(next(iter(self._events)))
        return True

    def named(self, keys: Iterable[str]) -> list[event_pb2.Event]:
        """These ids have become known: the events that name one of them; they are kept no longer."""
        if not self._events:
            return []
        numbers = sorted({number for key in keys for number in self._by_key.get(key, ())})
        return [event for number in numbers if (event := self._drop(number)) is not None]

    def expire(self) -> int:
        """Let go of events that are too old; answers with how many."""
        now, gone = self._clock.lease(), 0
        while self._events and next(iter(self._events.values()))[0] <= now:
            self._drop(next(iter(self._events)))
            gone += 1
        return gone

    def _drop(self, number: int) -> event_pb2.Event | None:
        entry = self._events.pop(number, None)
        if entry is None:
            return None
        for key in _keys(entry[1].subject):
            numbers = self._by_key.get(key)
            if numbers is not None:
                numbers.discard(number)
                if not numbers:
                    del self._by_key[key]
        return entry[1]


def _keys(subject: event_pb2.Subject) -> list[str]:
    named = (subject.resource_id, subject.floating_ip_id, subject.port_id, subject.subnet_id, subject.network_id)
    return [key for key in named if key]
