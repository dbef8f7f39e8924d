"""One channel of a connection to the lab's embedded broker: methods in, answers and deliveries out."""

from collections.abc import Callable, Sequence
from typing import Any

from amqp.serialization import dumps, loads

from lab.amqp_state import AmqpError, Queue, State, Stored

Method = tuple[int, int]

_DELIVER = (60, 60)
# Argument formats in py-amqp's notation: o octet, B short, l long, L long long, s and S strings, b bit, F table.
_FORMATS: dict[Method, str] = {
    (20, 10): "s", (20, 20): "b", (20, 40): "BsBB", (20, 41): "",
    (40, 10): "BssbbbbbF", (40, 20): "Bsbb",
    (50, 10): "BsbbbbbF", (50, 20): "BsssbF", (50, 30): "Bsb", (50, 40): "Bsbbb", (50, 50): "BsssF",
    (60, 10): "lBb", (60, 20): "BssbbbbF", (60, 30): "sb", (60, 40): "Bssbb", (60, 70): "Bsb", (60, 80): "Lb",
    (60, 90): "Lb", (60, 100): "b", (60, 110): "b", (60, 120): "Lbb", (85, 10): "b",
}  # fmt: skip


class Wire:
    """What a channel needs of its connection."""

    def method(self, channel: int, method: Method, arguments: str, values: Sequence[Any]) -> None:
        """Send a method."""
        raise NotImplementedError

    def content(
        self, channel: int, method: Method, arguments: str, values: Sequence[Any], properties: bytes, body: bytes
    ) -> None:
        """Send a method that carries a message."""
        raise NotImplementedError


class Consumer:
    """A consumer of one queue on one channel."""

    def __init__(self, channel: "Channel", tag: str, queue: Queue, prefetch: int, *, no_ack: bool) -> None:
        self._channel = channel
        self._prefetch = prefetch
        self._no_ack = no_ack
        self.tag = tag
        self.queue = queue
        self.unacked = 0

    def has_room(self) -> bool:
        """Whether its prefetch allows another message."""
        return self._no_ack or not self._prefetch or self.unacked < self._prefetch

    def take(self, queue: Queue, message: Stored) -> None:
        """Deliver one."""
        tag = self._channel.remember(self, queue, message, no_ack=self._no_ack)
        self._channel.deliver(self.tag, tag, message)


class Channel:
    """Publishes, consumes, confirms. Raises AmqpError for what it refuses; the connection then closes the channel."""

    def __init__(self, number: int, state: State, wire: Wire) -> None:
        self._number = number
        self._state = state
        self._wire = wire
        self._prefetch = 0
        self._tag = 0
        self._confirms = False
        self._published = 0
        self._consumers: dict[str, Consumer] = {}
        self._unacked: dict[int, tuple[Consumer | None, Queue, Stored]] = {}
        self._publishing: tuple[str, str, bool] | None = None
        self._handlers: dict[Method, Callable[..., None]] = {
            (20, 20): lambda active: self._answer((20, 21), "b", active),
            (40, 10): self._declare_exchange, (40, 20): self._delete_exchange,
            (50, 10): self._declare_queue, (50, 20): self._bind, (50, 30): self._purge,
            (50, 40): self._delete_queue, (50, 50): self._unbind,
            (60, 10): self._qos, (60, 20): self._consume, (60, 30): self._cancel, (60, 40): self._publish,
            (60, 70): self._get, (60, 80): self._ack, (60, 90): self._reject, (60, 100): self._recover,
            (60, 110): self._recover, (60, 120): self._nack, (85, 10): self._confirm,
        }  # fmt: skip

    def handle(self, method: Method, arguments: bytes) -> None:
        """Do what a method asks. AmqpError 540 for one that this broker does not know."""
        handler = self._handlers.get(method)
        if handler is None:
            raise AmqpError(540, f"NOT_IMPLEMENTED - method {method}")
        values, _ = loads(_FORMATS[method], arguments, 0)
        handler(*values)

    def message(self, properties: bytes, body: bytes) -> None:
        """The content of the last publish has come."""
        if self._publishing is None:
            raise AmqpError(505, "UNEXPECTED_FRAME - content without publish")
        (exchange, key, mandatory), self._publishing = self._publishing, None
        queues = self._state.route(exchange, key)
        if mandatory and not queues:
            values = (312, "NO_ROUTE", exchange, key)
            self._wire.content(self._number, (60, 50), "Bsss", values, properties, body)
        for queue in queues:
            queue.put(Stored(exchange, key, properties, body))
        if self._confirms:
            self._published += 1
            self._answer((60, 80), "Lb", self._published, False)

    def close(self) -> None:
        """Give back what was not acked; consumers go."""
        for consumer in list(self._consumers.values()):
            self._remove(consumer)
        self._give_back(list(self._unacked))

    def remember(self, consumer: Consumer | None, queue: Queue, message: Stored, *, no_ack: bool) -> int:
        """Number a delivery and keep it until its ack."""
        self._tag += 1
        if not no_ack:
            self._unacked[self._tag] = (consumer, queue, message)
            if consumer is not None:
                consumer.unacked += 1
        return self._tag

    def deliver(self, consumer_tag: str, tag: int, message: Stored) -> None:
        """Send a delivery."""
        values = (consumer_tag, tag, message.redelivered, message.exchange, message.key)
        self._wire.content(self._number, _DELIVER, "sLbss", values, message.properties, message.body)

    def _answer(self, method: Method, arguments: str = "", *values: Any) -> None:
        self._wire.method(self._number, method, arguments, values)

    def _declare_exchange(
        self, _ticket: int, name: str, kind: str, passive: bool, durable: bool, auto_delete: bool, _internal: bool,
        nowait: bool, _arguments: Any,
    ) -> None:  # fmt: skip
        if passive:
            self._state.exchange(name)
        else:
            self._state.declare_exchange(name, kind, durable=durable, auto_delete=auto_delete)
        if not nowait:
            self._answer((40, 11))

    def _delete_exchange(self, _ticket: int, name: str, _if_unused: bool, nowait: bool) -> None:
        self._state.exchanges.pop(name, None)
        if not nowait:
            self._answer((40, 21))

    def _declare_queue(
        self, _ticket: int, name: str, passive: bool, durable: bool, exclusive: bool, auto_delete: bool, nowait: bool,
        arguments: Any,
    ) -> None:  # fmt: skip
        if passive:
            queue = self._state.queue(name, self._wire)
        else:
            queue = self._state.declare_queue(
                name, arguments or {}, durable=durable, exclusive=exclusive, auto_delete=auto_delete, asker=self._wire
            )
        if not nowait:
            self._answer((50, 11), "sll", queue.name, len(queue.ready), len(queue.takers))

    def _bind(self, _ticket: int, queue: str, exchange: str, key: str, nowait: bool, _arguments: Any) -> None:
        self._state.queue(queue, self._wire)
        self._state.exchange(exchange).bindings.add((queue, key))
        if not nowait:
            self._answer((50, 21))

    def _unbind(self, _ticket: int, queue: str, exchange: str, key: str, _arguments: Any) -> None:
        self._state.unbind(self._state.exchange(exchange), queue, key)
        self._answer((50, 51))

    def _purge(self, _ticket: int, name: str, nowait: bool) -> None:
        queue = self._state.queue(name, self._wire)
        count = len(queue.ready)
        queue.ready.clear()
        if not nowait:
            self._answer((50, 31), "l", count)

    def _delete_queue(self, _ticket: int, name: str, _if_unused: bool, _if_empty: bool, nowait: bool) -> None:
        count = self._state.delete_queue(name)
        if not nowait:
            self._answer((50, 41), "l", count)

    def _qos(self, _size: int, count: int, _global: bool) -> None:
        self._prefetch = count
        self._answer((60, 11))

    def _consume(
        self, _ticket: int, name: str, tag: str, _no_local: bool, no_ack: bool, _exclusive: bool, nowait: bool,
        _arguments: Any,
    ) -> None:  # fmt: skip
        queue = self._state.queue(name, self._wire)
        tag = tag or f"ctag-{self._number}-{len(self._consumers) + 1}"
        if tag in self._consumers:
            raise AmqpError(530, f"NOT_ALLOWED - consumer tag '{tag}' is used")
        consumer = self._consumers[tag] = Consumer(self, tag, queue, self._prefetch, no_ack=no_ack)
        if not nowait:
            self._answer((60, 21), "s", tag)
        queue.takers.append(consumer)
        queue.pump()

    def _cancel(self, tag: str, nowait: bool) -> None:
        if (consumer := self._consumers.get(tag)) is not None:
            self._remove(consumer)
        if not nowait:
            self._answer((60, 31), "s", tag)

    def _remove(self, consumer: Consumer) -> None:
        del self._consumers[consumer.tag]
        consumer.queue.takers.remove(consumer)
        if consumer.queue.auto_delete and not consumer.queue.takers:
            self._state.delete_queue(consumer.queue.name)

    def _publish(self, _ticket: int, exchange: str, key: str, mandatory: bool, _immediate: bool) -> None:
        if exchange:
            self._state.exchange(exchange)
        self._publishing = (exchange, key, mandatory)

    def _get(self, _ticket: int, name: str, no_ack: bool) -> None:
        queue = self._state.queue(name, self._wire)
        if not queue.ready:
            self._answer((60, 72), "s", "")
            return
        message = queue.ready.popleft()
        tag = self.remember(None, queue, message, no_ack=no_ack)
        values = (tag, message.redelivered, message.exchange, message.key, len(queue.ready))
        self._wire.content(self._number, (60, 71), "Lbssl", values, message.properties, message.body)

    def _ack(self, tag: int, multiple: bool) -> None:
        for queue in {id(queue): queue for _, queue, _ in map(self._forget, self._tags(tag, multiple))}.values():
            queue.pump()

    def _reject(self, tag: int, requeue: bool) -> None:
        self._nack(tag, False, requeue)

    def _nack(self, tag: int, multiple: bool, requeue: bool) -> None:
        if requeue:
            self._give_back(self._tags(tag, multiple))
        else:
            self._ack(tag, multiple)

    def _recover(self, _requeue: bool) -> None:
        self._give_back(list(self._unacked))
        self._answer((60, 111))

    def _confirm(self, nowait: bool) -> None:
        self._confirms = True
        if not nowait:
            self._answer((85, 11))

    def _tags(self, tag: int, multiple: bool) -> list[int]:
        if multiple:
            return [one for one in self._unacked if one <= tag or not tag]
        if tag not in self._unacked:
            raise AmqpError(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}")
        return [tag]

    def _forget(self, tag: int) -> tuple[Consumer | None, Queue, Stored]:
        entry = self._unacked.pop(tag)
        if entry[0] is not None:
            entry[0].unacked -= 1
        return entry

    def _give_back(self, tags: Sequence[int]) -> None:
        by_queue: dict[int, tuple[Queue, list[Stored]]] = {}
        for _, queue, message in map(self._forget, tags):
            by_queue.setdefault(id(queue), (queue, []))[1].append(message)
        for queue, messages in by_queue.values():
            queue.put_back(messages)


def encode(method: Method, arguments: str, values: Sequence[Any]) -> bytes:
    """A method frame's payload."""
    head: bytes = method[0].to_bytes(2, "big") + method[1].to_bytes(2, "big")
    return head + dumps(arguments, values) if arguments else head
