"""A broker as the services use it: one kombu connection, its socket awaited together with a wake-up from other threads.

kombu blocks, so a connection lives in one thread and is touched by no other. Exchanges and queues are first looked up
as they are, and declared only where they are missing: an operator may have made them otherwise (durable exchanges, a
policy), and a declaration that differs would be refused.
"""

import os
import select
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import kombu
from amqp.exceptions import AMQPError, MessageNacked, NotFound

from services.common.settings import SettingsError

# What kombu raises when a broker is away, refuses or vanishes.
BROKER_ERRORS: Final[tuple[type[Exception], ...]] = (AMQPError, MessageNacked, OSError)

_CONNECT_SECONDS = 5.0
_HALF_FRAME_SECONDS = 1.0
_CHUNK_BYTES = 128 * 1024
_SCHEMES = {"amqp": False, "rabbit": False, "amqps": True}


@dataclass(frozen=True)
class Tls:
    """How a broker with scheme amqps is trusted and convinced. Paths of PEM files; empty `ca`: the system's."""

    ca: str = ""
    cert: str = ""
    key: str = ""


def broker_urls(text: str) -> list[str]:
    """The URLs of a cluster's nodes, from kombu's or oslo.messaging's spelling.

    `rabbit://user:password@one:5672,user:password@two:5672/vhost` is one URL a host, to be tried in turn. The virtual
    host is what follows the slash that ends the host, `/` when nothing does. SettingsError when it is no such URL.
    """
    # By hand: urlsplit refuses several hosts when one of them is an IPv6 address in brackets.
    scheme, _, rest = text.partition("://")
    hosts, slash, path = rest.partition("/")
    if scheme.lower() not in _SCHEMES or not hosts:
        # The text may hold a password: it is not repeated.
        msg = "[notifier] broker is not a URL of the form amqp://user:password@host:5672/vhost (or amqps, rabbit)"
        raise SettingsError(msg)
    scheme = "amqps" if _SCHEMES[scheme.lower()] else "amqp"
    path = slash + path or "//"
    login = ""
    urls: list[str] = []
    for host in hosts.split(","):
        if "@" in host:
            login = host.rpartition("@")[0] + "@"
        urls.append(f"{scheme}://{login}{host.rpartition('@')[2]}{path}")
    return urls


def connect(url: str, tls: Tls, *, name: str, heartbeat: int) -> kombu.Connection:
    """Connect to one broker. `heartbeat` in seconds. Raises one of BROKER_ERRORS."""
    options: Any = False
    if url.startswith("amqps:"):
        options = {
            "ssl_version": ssl.PROTOCOL_TLS_CLIENT,
            "cert_reqs": ssl.CERT_REQUIRED,
            "ca_certs": tls.ca or ssl.get_default_verify_paths().cafile,
            "certfile": tls.cert or None,
            "keyfile": tls.key or None,
            "server_hostname": urlsplit(url).hostname,
        }
    connection = kombu.Connection(
        url,
        ssl=options,
        heartbeat=heartbeat,
        connect_timeout=_CONNECT_SECONDS,
        transport_options={
            "client_properties": {"connection_name": name},
            # A broker that stops in mid-handshake must not hold us.
            "read_timeout": _CONNECT_SECONDS,
            "write_timeout": float(max(heartbeat, 5)),
        },
    )
    try:
        connection.ensure_connection(
            max_retries=1, interval_start=0, interval_step=0, timeout=_CONNECT_SECONDS, reraise_as_library_errors=False
        )
    except BROKER_ERRORS:
        connection.release()
        raise
    return connection


def ensure_exchange(connection: kombu.Connection, name: str, kind: str, *, durable: bool, auto_delete: bool) -> None:
    """Make sure that an exchange exists, of whatever properties; declare it with these where it is missing."""
    _ensure(
        connection,
        lambda channel: channel.exchange_declare(name, kind, passive=True),
        lambda channel: channel.exchange_declare(name, kind, durable=durable, auto_delete=auto_delete),
    )


def ensure_queue(connection: kombu.Connection, name: str, arguments: Mapping[str, Any]) -> None:
    """Make sure that a durable queue exists; declare it with these arguments where it is missing."""
    _ensure(
        connection,
        lambda channel: channel.queue_declare(name, passive=True),
        lambda channel: channel.queue_declare(name, durable=True, auto_delete=False, arguments=dict(arguments)),
    )


def _ensure(connection: kombu.Connection, look: Callable[[Any], Any], declare: Callable[[Any], Any]) -> None:
    # A refusal closes the channel, so each question has its own.
    channel = connection.channel()
    try:
        look(channel)
    except NotFound:
        channel = connection.channel()
        declare(channel)
    channel.close()


class Waker:
    """Ends another thread's wait. `wake` may be called from any thread and any number of times."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """What to poll."""
        return self._descriptor

    def wake(self) -> None:
        """End the wait that is, or the next."""
        os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        """Forget what woke us."""
        try:
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)


class Drain:
    """Reads what a connection has, without ever waiting while another thread wants something."""

    def __init__(self, connection: kombu.Connection, waker: Waker) -> None:
        self._connection = connection
        self._waker = waker
        self._transport = connection.connection.transport
        self._source = _Source(self._transport.sock)
        # kombu's transport reads each frame in three pieces from here; one look at the socket serves many frames.
        self._transport._quick_recv = self._source  # noqa: SLF001
        self._poll = select.poll()
        self._poll.register(self._transport.sock, select.POLLIN)
        self._poll.register(waker, select.POLLIN)
        self._interval = (connection.connection.heartbeat or 20) / 4
        self._next_heartbeat = time.monotonic() + self._interval

    def wait(self) -> None:
        """Wait for the socket, the waker or the next heartbeat. Raises one of BROKER_ERRORS on a silent broker."""
        if not self._source.pending():
            self._poll.poll(max(0.0, self._next_heartbeat - time.monotonic()) * 1000)
        self._waker.clear()
        if time.monotonic() >= self._next_heartbeat:
            self._next_heartbeat = time.monotonic() + self._interval
            self._connection.heartbeat_check(rate=2)

    def read(self, limit: int) -> None:
        """Dispatch at most `limit` frames that are there already. Raises one of BROKER_ERRORS."""
        read_frame = self._transport.read_frame
        dispatch = self._connection.connection.on_inbound_frame
        self._source.hurry = True
        try:
            for _ in range(limit):
                if not self._source.ready():
                    return
                dispatch(read_frame())
        except TimeoutError:
            # Half a frame has come; kombu keeps it, and a peer that stays silent fails the heartbeat.
            return
        finally:
            self._source.hurry = False


class _Source:
    """A socket's bytes, read in large pieces and given out in small ones."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._chunk = b""
        self._start = 0
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._decrypted = getattr(sock, "pending", None)
        # Whether to give up on a peer that is silent in mid-frame, instead of waiting as the socket says.
        self.hurry = False

    def __call__(self, count: int) -> bytes:
        start = self._start
        if start == len(self._chunk):
            if self.hurry and not self.ready(_HALF_FRAME_SECONDS):
                raise TimeoutError
            self._chunk = self._sock.recv(_CHUNK_BYTES)
            start = 0
        self._start = min(start + count, len(self._chunk))
        return self._chunk[start : self._start]

    def pending(self) -> bool:
        """Whether there are bytes that no poll of the socket shows: read ahead, or decrypted with a TLS record."""
        return self._start < len(self._chunk) or (self._decrypted is not None and self._decrypted() > 0)

    def ready(self, seconds: float = 0) -> bool:
        """Whether there are bytes, or an end, within `seconds`."""
        return self.pending() or bool(self._poll.poll(seconds * 1000))
