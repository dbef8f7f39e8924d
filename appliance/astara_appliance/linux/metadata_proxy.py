"""The metadata proxies on the machine: an HTTP listener for each internal network.

What is always true:

- A listener hears its network's interface alone, so the network of a request is a fact. What comes and goes on one
  network closes nothing on another, and a listener that stays keeps its connections.
- What a network, or one instance on it, can take is bounded: connections, requests at a time, bytes, and the seconds
  in which a request must have arrived. When too many are connected, who has been silent longest has to go.
- Listeners live in the agent. While it restarts, instances are refused and ask again.
"""

import asyncio
import contextlib
import functools
import logging
import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, ClassVar

import aiohttp
from aiohappyeyeballs import AddrInfoType
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from ..backend import BackendError, State
from ..connections import Bounded
from ..interfaces import MANAGEMENT
from ..metadata_forwarder import MAX_REQUEST, MetadataForwarder, MetadataRequest
from .effect import Machine
from .neighbours import mac_of

CONNECTIONS = 256
"""Of one network at a time."""

AT_ONCE = 16
"""Requests of one network that may be on their way to the orchestrator."""

AT_ONCE_EACH = 8
"""Requests of one instance that may be in hand; more are told to come later."""

IDLE = 10.0
"""Seconds in which a request's head must have come, after the connection or the answer before; and then its body."""

CLOSING = 2.0
"""Seconds for the requests in hand when a listener closes."""

_MOST_LINE = 8_190
_MOST_HEADERS = 64
_BACKLOG = 128

_log = logging.getLogger(__name__)
# aiohttp logs each request that is no HTTP with a traceback: an instance could fill the log.
_silent = logging.getLogger(f"{__name__}.http")
_silent.setLevel(logging.CRITICAL)


class MetadataProxyEffect:
    """Satisfies `effect.Effect` for the states of `services.metadata_proxy`."""

    name: ClassVar[str] = "metadata_proxy"

    def __init__(self, machine: Machine) -> None:
        self._boot = machine.boot
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[str, _Proxy] = {}

    async def adopt(self, recorded: State) -> bool:
        """No listener outlives an agent."""
        return not recorded and not self._proxies

    async def check(self, state: State) -> None:
        """There is nothing to try: whether a port is free shows when it is opened."""

    async def apply(self, former: State | None, state: State) -> None:  # noqa: ARG002 - the listeners are known here
        """Listen where `state` says, and nowhere else."""
        wanted: dict[str, list[dict[str, Any]]] = {}
        for listener in state.get("listeners", ()):
            wanted.setdefault(listener["ifname"], []).append(listener)
        gone = [ifname for ifname, proxy in self._proxies.items() if not proxy.is_for(wanted.get(ifname))]
        await asyncio.gather(*(self._proxies.pop(ifname).close() for ifname in gone))
        for ifname, listeners in wanted.items():
            proxy = self._proxies.get(ifname)
            if proxy is None:
                proxy = _Proxy(ifname, listeners, MetadataForwarder(self._boot, self._reach_out(), AT_ONCE))
                await proxy.open()
                self._proxies[ifname] = proxy
            proxy.hosts = state["hosts"].get(ifname, {})

    async def close(self) -> None:
        """The agent ends, and the listeners with it."""
        await asyncio.gather(*(proxy.close() for proxy in self._proxies.values()))
        self._proxies.clear()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _reach_out(self) -> aiohttp.ClientSession:
        if self._session is None:
            factory = functools.partial(_management_socket, self._boot.listen_addresses)
            connector = aiohttp.TCPConnector(limit=0, socket_factory=factory, keepalive_timeout=IDLE)
            # The answer goes to the instance as it is, and no cookie of one instance to another.
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session


class _Proxy:
    """The listener of one network. `hosts` has the instances' addresses by MAC address."""

    def __init__(self, ifname: str, listeners: list[dict[str, Any]], forwarder: MetadataForwarder) -> None:
        self.hosts: Mapping[str, str] = {}
        self._ifname = ifname
        self._listeners = listeners
        self._network_id: str = listeners[0]["network_id"]
        self._forwarder = forwarder
        self._link = 0
        self._servers: list[asyncio.Server] = []
        self._in_hand: Counter[str] = Counter()
        self._http = web.Server(
            self._answer,
            request_factory=self._receive,
            handler_cancellation=True,
            access_log=None,
            logger=_silent,
            keepalive_timeout=IDLE,
            lingering_time=0,
            max_line_size=_MOST_LINE,
            max_field_size=_MOST_LINE,
            max_headers=_MOST_HEADERS,
            auto_decompress=False,
        )
        self._accept = Bounded(self._http, CONNECTIONS)

    def is_for(self, listeners: list[dict[str, Any]] | None) -> bool:
        """Whether it is what is wanted, on the interface that has its name now."""
        return _what(self._listeners) == _what(listeners or ()) and self._link == _index_of(self._ifname)

    async def open(self) -> None:
        """Listen. Raises `BackendError`, and then nothing is left open."""
        self._link = _index_of(self._ifname)
        loop = asyncio.get_running_loop()
        try:
            for listener in self._listeners:
                made = _listening_socket(listener["address"], listener["port"], self._ifname)
                self._servers.append(await loop.create_server(self._accept, sock=made, backlog=_BACKLOG))
        except OSError as error:
            await self.close()
            raise BackendError(f"metadata proxy of {self._ifname}: {error.strerror}") from error

    async def close(self) -> None:
        """Take no more, finish soon what is in hand."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        self._http.pre_shutdown()
        await self._http.shutdown(CLOSING)

    def _receive(
        self,
        message: RawRequestMessage,
        payload: aiohttp.StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_REQUEST)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await self._answer_source(request)
        except web.HTTPRequestEntityTooLarge:
            response = _last(413, "the request is too large")
        except (aiohttp.ClientPayloadError, web.RequestPayloadError):
            response = _last(400, "the request is broken")
        except Exception:
            _log.exception("metadata proxy of %s", self._ifname)
            response = _last(500, "the metadata proxy failed")
        # Not the versions of what runs here, or in the management network.
        response.headers["Server"] = "astara"
        return response

    async def _answer_source(self, request: web.BaseRequest) -> web.Response:
        if request.method == "CONNECT":
            # Its target is another server's address, and there is none behind this one.
            return _last(405, "this is no proxy for other servers")
        source = await self._source(request)
        if source is None:
            return web.Response(status=404, text="there is no instance at this address\n")
        if self._in_hand[source] >= AT_ONCE_EACH:
            return web.Response(status=429, text="too many requests at a time\n", headers={"Retry-After": "1"})
        self._in_hand[source] += 1
        try:
            with self._accept.in_hand(request):
                return await self._forward(request, source)
        finally:
            self._in_hand -= Counter((source,))

    async def _forward(self, request: web.BaseRequest, source: str) -> web.Response:
        if (request.content_length or 0) > MAX_REQUEST:
            return _last(413, "the request is too large")
        try:
            async with asyncio.timeout(IDLE):
                body = await request.read()
        except TimeoutError:
            return _last(408, "the request did not arrive in time")
        headers = list(request.headers.items())
        asked = MetadataRequest(request.method, request.raw_path, headers, body, self._network_id, source)
        answer = await self._forwarder.forward(asked)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    async def _source(self, request: web.BaseRequest) -> str | None:
        """The address under which Neutron knows who asks; None when it does not."""
        peer = request.get_extra_info("peername")
        if peer is None:
            return None
        address = ip_address(peer[0].partition("%")[0])
        if not address.is_link_local:
            return str(address)
        mac = None
        with contextlib.suppress(OSError):
            mac = await mac_of(str(address), self._link)
        source = self.hosts.get(mac or "")
        if source is None:
            _log.debug("metadata proxy of %s: %s is none of Neutron's ports", self._ifname, address)
        return source


def _last(status: int, text: str) -> web.Response:
    """An answer behind which the connection ends: what is left of the request is not read."""
    response = web.Response(status=status, text=f"{text}\n")
    response.force_close()
    return response


def _what(listeners: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    """What a listener is; which of the interface's addresses packets are redirected to is the firewall's business."""
    return [(item["network_id"], item["destination"], item["port"]) for item in listeners]


def _index_of(ifname: str) -> int:
    try:
        return socket.if_nametoindex(ifname)
    except OSError:
        return 0


def _listening_socket(address: str, port: int, ifname: str) -> socket.socket:
    """A socket that hears one interface, on any address: the redirected packets carry one of the interface's."""
    is_v6 = ":" in address
    made = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, ifname.encode())
        if is_v6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(("::" if is_v6 else "0.0.0.0", port))
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def _management_socket(own: Sequence[str], address: AddrInfoType) -> socket.socket:
    """A socket that reaches the management network only: no tenant's network gets to see the token.

    It speaks from one of our `own` addresses, or a tenant's network with the orchestrator's address would lend it.
    """
    made = socket.socket(address[0], address[1], address[2])
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, MANAGEMENT.encode())
        source = next((one for one in own if (":" in one) == (address[0] == socket.AF_INET6)), None)
        if source is not None:
            made.bind((source, 0))
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made
