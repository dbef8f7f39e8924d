"""What the lab's embedded broker holds: exchanges, queues, bindings, messages. In memory, and gone with the process.

Nothing here knows of sockets: a consumer is an object that says whether it has room and takes messages.
"""

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

KINDS = ("direct", "fanout", "topic")


class AmqpError(Exception):
    """A refusal: it closes the channel with this code and text (AMQP 0-9-1, section 1.2)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(slots=True)
class Stored:
    """One message. `properties` are the bytes of its header frame, passed on as they came."""

    exchange: str
    key: str
    properties: bytes
    body: bytes
    redelivered: bool = False


class Taker(Protocol):
    """A consumer of a queue."""

    def has_room(self) -> bool:
        """Whether it takes a message now."""
        ...

    def take(self, queue: "Queue", message: Stored) -> None:
        """Take one."""
        ...


@dataclass(slots=True)
class Exchange:
    """Where messages are published to."""

    name: str
    kind: str
    durable: bool
    auto_delete: bool
    bindings: set[tuple[str, str]] = field(default_factory=set)
    """Queue and key."""

    def matching(self, key: str) -> set[str]:
        """Names of the queues that get a message with this routing key."""
        if self.kind == "fanout":
            return {queue for queue, _ in self.bindings}
        if self.kind == "direct":
            return {queue for queue, bound in self.bindings if bound == key}
        return {queue for queue, bound in self.bindings if _pattern(bound).fullmatch(key)}


class Queue:
    """Messages in order, and who consumes them in turn."""

    def __init__(
        self, name: str, arguments: Mapping[str, Any], *, durable: bool, auto_delete: bool, owner: Any
    ) -> None:
        """`owner` is the connection of an exclusive queue, else None."""
        self.name = name
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner
        self.ready: deque[Stored] = deque()
        self.takers: deque[Taker] = deque()
        self._limit = int(arguments.get("x-max-length", 0))

    def put(self, message: Stored) -> None:
        """Add a message; the oldest goes where the queue has a limit."""
        self.ready.append(message)
        if self._limit and len(self.ready) > self._limit:
            self.ready.popleft()
        self.pump()

    def put_back(self, messages: Iterable[Stored]) -> None:
        """Put messages, oldest first, in front again."""
        for message in reversed(list(messages)):
            message.redelivered = True
            self.ready.appendleft(message)
        self.pump()

    def pump(self) -> None:
        """Hand out as much as consumers have room for, in turn."""
        while self.ready:
            for _ in range(len(self.takers)):
                taker = self.takers[0]
                self.takers.rotate(-1)
                if taker.has_room():
                    taker.take(self, self.ready.popleft())
                    break
            else:
                return


class State:
    """All exchanges and queues."""

    def __init__(self) -> None:
        self.exchanges = {
            f"amq.{kind}": Exchange(f"amq.{kind}", kind, durable=True, auto_delete=False) for kind in KINDS
        }
        self.queues: dict[str, Queue] = {}
        self._named = 0

    def exchange(self, name: str) -> Exchange:
        """An exchange; AmqpError 404."""
        if name not in self.exchanges:
            raise AmqpError(404, f"NOT_FOUND - no exchange '{name}' in vhost '/'")
        return self.exchanges[name]

    def queue(self, name: str, asker: Any) -> Queue:
        """A queue; AmqpError 404, or 405 for somebody else's exclusive one."""
        queue = self.queues.get(name)
        if queue is None:
            raise AmqpError(404, f"NOT_FOUND - no queue '{name}' in vhost '/'")
        if queue.owner not in (None, asker):
            raise AmqpError(405, f"RESOURCE_LOCKED - queue '{name}' is exclusive to another connection")
        return queue

    def declare_exchange(self, name: str, kind: str, *, durable: bool, auto_delete: bool) -> None:
        """Make an exchange; AmqpError 406 when it is there and different."""
        if kind not in KINDS:
            raise AmqpError(406, f"PRECONDITION_FAILED - unknown exchange type '{kind}'")
        there = self.exchanges.setdefault(name, Exchange(name, kind, durable, auto_delete))
        if (there.kind, there.durable, there.auto_delete) != (kind, durable, auto_delete):
            raise AmqpError(406, f"PRECONDITION_FAILED - inequivalent arg for exchange '{name}' in vhost '/'")

    def declare_queue(
        self, name: str, arguments: Mapping[str, Any], *, durable: bool, exclusive: bool, auto_delete: bool, asker: Any
    ) -> Queue:
        """Make a queue, or find it; AmqpError 406 when it is there and different."""
        if not name:
            self._named += 1
            name = f"amq.gen-{self._named}"
        if name in self.queues:
            there = self.queue(name, asker)
            if (there.durable, there.auto_delete) != (durable, auto_delete):
                raise AmqpError(406, f"PRECONDITION_FAILED - inequivalent arg for queue '{name}' in vhost '/'")
            return there
        owner = asker if exclusive else None
        queue = self.queues[name] = Queue(name, arguments, durable=durable, auto_delete=auto_delete, owner=owner)
        return queue

    def unbind(self, exchange: Exchange, queue: str, key: str) -> None:
        """Remove a binding; the last one takes an auto-delete exchange with it."""
        exchange.bindings.discard((queue, key))
        if exchange.auto_delete and not exchange.bindings:
            self.exchanges.pop(exchange.name, None)

    def delete_queue(self, name: str) -> int:
        """Remove a queue with its bindings; answers with how many messages it held."""
        queue = self.queues.pop(name, None)
        for exchange in list(self.exchanges.values()):
            for bound, key in [binding for binding in exchange.bindings if binding[0] == name]:
                self.unbind(exchange, bound, key)
        return len(queue.ready) if queue is not None else 0

    def route(self, exchange: str, key: str) -> list[Queue]:
        """The queues that get a message; AmqpError 404 for an unknown exchange."""
        names = {key} if not exchange else self.exchange(exchange).matching(key)
        return [queue for name in names if (queue := self.queues.get(name)) is not None]


@lru_cache(maxsize=1024)
def _pattern(binding: str) -> re.Pattern[str]:
    """A topic binding as an expression: `*` is one word, `#` any number of words."""
    if binding == "#":
        return re.compile(".*", re.DOTALL)
    text = r"\.".join({"*": r"[^.]+", "#": "#"}.get(word, re.escape(word)) for word in binding.split("."))
    # A `#` takes the dot before or after it along, so that it may stand for nothing.
    text = text.replace(r"\.#", r"(?:\.[^.]+)*").replace(r"#\.", r"(?:[^.]+\.)*")
    return re.compile(text)
