"""The messages that a real control plane sends, in its envelopes, published by one thread that outlives the broker.

Callers never wait: an envelope is queued and the thread publishes in the order of the queue, reconnecting for as long
as the broker is away. Without a broker nothing is queued, but listeners still see every message. Shapes follow the
recordings of Neutron 29 and Nova 34.
"""

import datetime as dt
import json
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import kombu

from .options import CloudOptions
from .web import Context

LOG = logging.getLogger(__name__)

Listener = Callable[["Message"], None]


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it goes to the broker; `content` is the inner oslo message."""

    exchange: str
    kind: Literal["topic", "fanout"]
    routing_key: str
    content: dict[str, Any]

    def body(self) -> dict[str, str]:
        """The oslo.messaging 2.0 envelope, whose message is a JSON string."""
        return {"oslo.version": "2.0", "oslo.message": json.dumps(self.content)}


def _stamp(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


class Notifications:
    """Builds envelopes and hands them to listeners and to the publishing thread."""

    def __init__(self, options: CloudOptions) -> None:
        self._options = options
        self._publisher = Publisher(options.amqp_url) if options.amqp_url else None
        self.listeners: list[Listener] = []
        self.copies = 1
        """How often each message is published; a `duplicate` fault sets 2 while its call runs."""

    def start(self) -> None:
        """Start publishing, when there is a broker to publish to."""
        if self._publisher is not None:
            self._publisher.start()

    def stop(self) -> None:
        """Publish what is queued if the broker is there, then end the thread."""
        if self._publisher is not None:
            self._publisher.stop()

    def network(self, context: Context, event_type: str, payload: dict[str, Any]) -> None:
        """A notification of Neutron."""
        if self.silent:
            return
        content = self._envelope(f"network.{self._options.hostname}", event_type, payload)
        self._send(Message("neutron", "topic", "notifications.info", content | self._network_context(context)))

    def compute(self, context: Context, publisher: str, event_type: str, payload: dict[str, Any]) -> None:
        """A legacy notification of Nova; `publisher` is `compute`, `conductor` or `scheduler`."""
        if self.silent:
            return
        content = self._envelope(f"{publisher}.{self._options.hostname}", event_type, payload)
        now = dt.datetime.fromtimestamp(self._options.clock(), dt.UTC).replace(tzinfo=None).isoformat()
        content |= _shared_context(context) | {
            "_context_read_deleted": "no",
            "_context_remote_address": None,
            "_context_timestamp": now,
            "_context_quota_class": None,
            "_context_user_name": context.user_name,
            "_context_service_catalog": [],
            "_context_project_name": context.project_name,
        }
        self._send(Message("nova", "topic", "notifications.info", content))

    def cast(self, context: Context, exchange: str, method: str, args: dict[str, Any]) -> None:
        """A cast to all agents on a fanout exchange."""
        if self.silent:
            return
        content = {"method": method, "args": args, "version": "1.0", "_unique_id": self._unique()}
        content |= self._network_context(context) | {"_context_auth_token": context.token}
        self._send(Message(exchange, "fanout", "", content))

    @property
    def silent(self) -> bool:
        """Nobody listens, so nothing needs to be built."""
        return self._publisher is None and not self.listeners

    def _send(self, message: Message) -> None:
        for listener in self.listeners:
            listener(message)
        if self._publisher is not None:
            for _ in range(self.copies):
                self._publisher.put(message)

    def _unique(self) -> str:
        return self._options.new_id().replace("-", "")

    def _envelope(self, publisher: str, event_type: str, payload: dict[str, Any]) -> dict[str, Any]:
        return {
            "message_id": self._options.new_id(),
            "publisher_id": publisher,
            "event_type": event_type,
            "priority": "INFO",
            "payload": payload,
            "timestamp": _stamp(self._options.clock()),
            "_unique_id": self._unique(),
        }

    def _network_context(self, context: Context) -> dict[str, Any]:
        return _shared_context(context) | {
            "_context_timestamp": _stamp(self._options.clock()),
            "_context_project_name": context.project_name,
            "_context_user_name": context.user_name,
            "_context_has_global_access": context.is_admin,
            "_context_can_set_project_id": context.is_admin,
        }


def _shared_context(context: Context) -> dict[str, Any]:
    return {
        "_context_user": context.user_id,
        "_context_project_id": context.project_id,
        "_context_system_scope": None,
        "_context_project": context.project_id,
        "_context_domain": None,
        "_context_user_domain": "default",
        "_context_project_domain": "default",
        "_context_is_admin": context.is_admin,
        "_context_read_only": False,
        "_context_show_deleted": False,
        "_context_auth_token": None,
        "_context_request_id": context.request_id,
        "_context_global_request_id": None,
        "_context_resource_uuid": None,
        "_context_roles": list(context.roles),
        "_context_user_identity": f"{context.user_id} {context.project_id} - default default",
        "_context_is_admin_project": True,
        "_context_user_id": context.user_id,
    }


class Publisher:
    """A thread with a queue that publishes to one broker, in order, and comes back after the broker did.

    A message whose publishing fails is published again after the reconnect, so one that the broker had already taken
    arrives twice; that is what oslo.messaging does too.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._queue: queue.Queue[Message | None] = queue.Queue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lab-cloud-publisher", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def put(self, message: Message) -> None:
        """Queue one message; callable from any thread."""
        self._queue.put(message)

    def stop(self) -> None:
        """Publish what is queued, unless the broker is away, and end."""
        self._stopping.set()
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        waiting: Message | None = None
        while True:
            try:
                # With confirms a message is the broker's only once the broker says so, as in oslo.messaging.
                options = {"confirm_publish": True}
                with kombu.Connection(self._url, connect_timeout=5, transport_options=options) as connection:
                    producer = connection.Producer(serializer="json", auto_declare=False)
                    declared: set[str] = set()
                    while True:
                        waiting = waiting or self._queue.get()
                        if waiting is None:
                            return
                        self._publish(producer, waiting, declared)
                        waiting = None
            except (*connection.connection_errors, *connection.channel_errors) as error:
                LOG.warning("broker away, messages wait: %s", type(error).__name__)
                if self._stopping.wait(0.5):
                    return

    @staticmethod
    def _publish(producer: Any, message: Message, declared: set[str]) -> None:
        if message.exchange not in declared:
            fanout = message.kind == "fanout"
            exchange = kombu.Exchange(message.exchange, message.kind, durable=False, auto_delete=fanout)
            exchange.declare(channel=producer.channel)
            if not fanout:
                declared.add(message.exchange)
        producer.publish(
            message.body(), exchange=message.exchange, routing_key=message.routing_key, delivery_mode=2, priority=0
        )
