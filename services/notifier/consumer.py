"""Reads the broker in a thread of its own: one connection, one queue that all notifiers share.

True at all times:
- Only this thread touches the connection. What the event loop has settled comes through a deque and a wake-up.
- A message is acked when all its events are answered; until then a crash or a cut makes the broker deliver it again.
- A message that cannot be understood, or that the scheduler refused, is put into the dead-letter queue, confirmed by
  the broker, and then acked. It is never requeued, so it stops nothing.
- Once it was told to finish it takes no further message, and acks those that it has as they are answered.
- After each new connection exchanges, queues and bindings are made sure of, and the caller is told that messages may
  have been missed: exchanges of OpenStack do not outlive the broker, and what is sent while nothing is bound is lost.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import amqp
import kombu
from astara.event.v1 import event_pb2 as pb

from services.common import logging
from services.common.amqp import BROKER_ERRORS, Drain, Tls, Waker, broker_urls, connect, ensure_exchange, ensure_queue

from . import metrics
from .delivery import Acks, Delivery
from .envelope import MessageError
from .normalise import Normaliser
from .settings import NotifierSettings, split_topic

REASON_HEADER = "x-astara-reason"

# Frames dispatched before what came is handed over: bounds the time for which acks wait.
_FRAMES = 600
_FIRST_DELAY = 0.1
_CONFIRM_SECONDS = 5.0
_STABLE_SECONDS = 10.0

_log = logging.get(__name__)


class Listener(Protocol):
    """Who is told, always in the consumer's thread."""

    def arrived(self, deliveries: list[Delivery]) -> None:
        """Messages with events. Their `answered` must be called, in one thread, for each event."""

    def connected(self) -> None:
        """The broker is there, and messages may have been missed until now."""

    def disconnected(self) -> None:
        """The broker is gone."""

    def failed(self, error: Exception) -> None:
        """The consumer met an error that it has no answer to, and has ended."""


class Consumer:
    """Consumes until it is stopped; reconnects by itself."""

    def __init__(
        self,
        settings: NotifierSettings,
        normaliser: Normaliser,
        listener: Listener,
        *,
        name: str,
        random_: random.Random,
        new_id: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._normaliser = normaliser
        self._listener = listener
        self._name = name
        self._random = random_
        self._new_id = new_id
        self._urls = broker_urls(settings.broker)
        self._topics = [split_topic(topic) for topic in settings.topics]
        self._tls = Tls(settings.broker_ca, settings.broker_cert, settings.broker_key)
        self._waker = Waker()
        self._stopping = threading.Event()
        self._finishing = threading.Event()
        self.finished = False
        """After `finish`: whether every message that was taken is acked."""
        self._settled: deque[Delivery] = deque()
        self._wake_asked = False
        self._session = 0
        self._acks = Acks()
        self._consumers: list[str] = []
        self._arrived: list[Delivery] = []
        self._refused: deque[Delivery] = deque()
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)

    def start(self) -> None:
        """Begin in a thread."""
        self._thread.start()

    def finish(self) -> None:
        """Take no more messages; those that are here already are acked once they are answered. `finished` says when."""
        self._finishing.set()
        self._waker.wake()

    def stop(self, grace: float = 5.0) -> None:
        """Send the acks that are due, close the connection, end the thread; at most `grace` seconds."""
        self._stopping.set()
        self._waker.wake()
        self._thread.join(grace)

    def _settle(self, delivery: Delivery) -> None:
        """Runs in the event loop's thread. One wake-up serves all that is settled until the reader takes it."""
        self._settled.append(delivery)
        if not self._wake_asked:
            self._wake_asked = True
            self._waker.wake()

    def _run(self) -> None:
        try:
            self._reconnect()
        except Exception as error:
            self._listener.failed(error)

    def _reconnect(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._consume(self._urls[attempt % len(self._urls)])
            except BROKER_ERRORS as error:
                if time.monotonic() - began > _STABLE_SECONDS:
                    attempt = 0
                attempt += 1
                # Doubling from 0.1 s, each between half and the whole of it, so that notifiers do not come at once.
                delay = min(self._settings.reconnect_most, _FIRST_DELAY * 2.0 ** min(attempt - 1, 16))
                delay *= self._random.uniform(0.5, 1.0)
                _log.warning(
                    "no broker", error=f"{type(error).__name__}: {error}", attempt=attempt, retry_in=round(delay, 2)
                )
                self._stopping.wait(delay)

    def _consume(self, url: str) -> None:
        connection = connect(url, self._tls, name=self._name, heartbeat=self._settings.heartbeat)
        try:
            channel, letters = self._open(connection), connection.channel()
            metrics.CONNECTS.inc()
            metrics.CONNECTED.labels("broker").set(1)
            _log.info("connected to the broker", queue=self._settings.queue, prefetch=self._settings.prefetch)
            self._listener.connected()
            drain = Drain(connection, self._waker)
            consuming = True
            while not self._stopping.is_set():
                drain.wait()
                if consuming and self._finishing.is_set():
                    consuming = False
                    # The broker's answer comes after all that it has sent, so nothing is on its way afterwards.
                    self._end_consuming(channel)
                drain.read(_FRAMES)
                self._take_settled()
                self._bury(letters)
                self._hand_over()
                self._acknowledge(channel)
                self.finished = not consuming and self._acks.unacked == 0
            self._take_settled()
            self._acknowledge(channel)
        finally:
            metrics.CONNECTED.labels("broker").set(0)
            self._listener.disconnected()
            _close(connection)

    def _open(self, connection: kombu.Connection) -> Any:
        """Make sure of everything that we listen to, and begin to consume. Answers with the channel."""
        settings = self._settings
        ensure_queue(
            connection,
            settings.dead_letter_queue,
            {"x-queue-type": "quorum", "x-max-length": settings.dead_letter_limit},
        )
        ensure_queue(connection, settings.queue, {"x-queue-type": "quorum"})
        # As oslo.messaging declares them: topic exchanges stay, fanout exchanges go with their last queue.
        for exchange in {exchange for exchange, _ in self._topics}:
            ensure_exchange(connection, exchange, "topic", durable=False, auto_delete=False)
        for exchange in settings.casts:
            ensure_exchange(connection, exchange, "fanout", durable=False, auto_delete=True)
        if settings.commands:
            ensure_exchange(connection, settings.command_exchange, "topic", durable=True, auto_delete=False)
            ensure_queue(connection, settings.command_queue, {"x-queue-type": "quorum"})
        self._session += 1
        self._acks = Acks()
        self._arrived.clear()
        self._refused.clear()
        channel = connection.channel()
        # Bodies as they came: they are decoded once, by us.
        channel.auto_decode = False
        for exchange, key in self._topics:
            channel.queue_bind(settings.queue, exchange, key)
        for exchange in settings.casts:
            channel.queue_bind(settings.queue, exchange, "")
        channel.basic_qos(0, settings.prefetch, False)
        self._consumers = [channel.basic_consume(settings.queue, callback=self._take_message)]
        if settings.commands:
            channel.queue_bind(settings.command_queue, settings.command_exchange, "#")
            self._consumers.append(channel.basic_consume(settings.command_queue, callback=self._take_command))
        return channel

    def _end_consuming(self, channel: Any) -> None:
        for consumer in self._consumers:
            channel.basic_cancel(consumer)

    def _take_message(self, message: amqp.Message) -> None:
        self._take(message, self._normaliser.events)

    def _take_command(self, message: amqp.Message) -> None:
        # A sender that gives no id gets one that lasts as long as this delivery.
        message_id = message.properties.get("message_id") or self._new_id()
        self._take(message, lambda body: self._normaliser.command(body, message_id))

    def _take(self, message: amqp.Message, understand: Callable[[bytes | str], list[pb.Event]]) -> None:
        tag = message.delivery_info["delivery_tag"]
        self._acks.delivered()
        if message.delivery_info["redelivered"]:
            metrics.REDELIVERED.inc()
        delivery = Delivery(self._session, tag, message, self._settle)
        try:
            delivery.expect(understand(message.body))
        except MessageError as error:
            delivery.reason = str(error)
            self._refused.append(delivery)
            return
        if delivery.events:
            self._arrived.append(delivery)
        else:
            metrics.MESSAGES.labels("ignored").inc()
            self._acks.done(tag)

    def _hand_over(self) -> None:
        """Give the event loop, at once, all messages that were read."""
        if not self._arrived:
            return
        arrived, self._arrived = self._arrived, []
        now = time.time()
        for delivery in arrived:
            first = delivery.events[0]
            if first.HasField("occurred_at"):
                metrics.LAG.observe(max(0.0, now - first.occurred_at.seconds - first.occurred_at.nanos / 1e9))
        metrics.MESSAGES.labels("events").inc(len(arrived))
        metrics.EVENTS.inc(sum(len(delivery.events) for delivery in arrived))
        self._listener.arrived(arrived)

    def _take_settled(self) -> None:
        # Cleared before the deque is read: what is settled from here on wakes us again.
        self._wake_asked = False
        while self._settled:
            delivery = self._settled.popleft()
            if delivery.session != self._session:
                # Its connection is gone, and the broker delivers it again.
                continue
            if delivery.reason is None:
                self._acks.done(delivery.tag)
            else:
                self._refused.append(delivery)

    def _bury(self, letters: Any) -> None:
        """Put refused messages into the dead-letter queue. They are done with only once the broker has confirmed that.

        More messages may arrive while it is awaited, refused ones among them.
        """
        while self._refused:
            delivery = self._refused.popleft()
            message = delivery.message
            headers = {
                **(message.properties.get("application_headers") or {}),
                REASON_HEADER: delivery.reason,
                "x-astara-exchange": message.delivery_info["exchange"],
                "x-astara-routing-key": message.delivery_info["routing_key"],
            }
            letter = amqp.Message(
                message.body,
                application_headers=headers,
                content_type=message.properties.get("content_type", "application/octet-stream"),
                delivery_mode=2,
            )
            letters.basic_publish_confirm(
                letter, exchange="", routing_key=self._settings.dead_letter_queue, confirm_timeout=_CONFIRM_SECONDS
            )
            _log.warning("message put into the dead-letter queue", reason=delivery.reason)
            self._acks.done(delivery.tag)
            metrics.MESSAGES.labels("dead letter").inc()

    def _acknowledge(self, channel: Any) -> None:
        for tag, multiple in self._acks.take():
            channel.basic_ack(tag, multiple=multiple)
        metrics.UNACKED.set(self._acks.unacked)


def _close(connection: kombu.Connection) -> None:
    try:
        connection.release()
    except BROKER_ERRORS:
        # It is gone already, which is why we are here.
        return
