"""How many connections an HTTP server has at a time, whoever makes them.

When there are too many, who has been silent longest has to go, so one who opens connections and says nothing keeps
nobody else out. A connection whose request is in hand is never cut. Those that are accepted in one go, as many as the
backlog, are counted with the next.
"""

import asyncio
import contextlib
from collections.abc import Iterator

from aiohttp import web
from aiohttp.web_protocol import RequestHandler


class Bounded:
    """Makes the protocols of a server: pass it to `create_server`."""

    def __init__(self, server: web.Server, most: int) -> None:
        """`most` connections at a time; more are refused when all of them are busy."""
        self._server = server
        self._most = most
        self._busy: set[asyncio.Transport] = set()

    def __call__(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        found = (item.transport for item in self._server.connections if isinstance(item, RequestHandler))
        there = [transport for transport in found if transport is not None and not transport.is_closing()]
        too_many = len(there) - self._most + 1
        silent = [transport for transport in there if transport not in self._busy][: max(0, too_many)]
        for transport in silent:
            transport.abort()
        return self._server() if too_many <= len(silent) else _Refusal()

    @contextlib.contextmanager
    def in_hand(self, request: web.BaseRequest) -> Iterator[None]:
        """While this lasts, the connection of `request` is not cut."""
        transport = request.transport
        if transport is None:
            yield
            return
        self._busy.add(transport)
        try:
            yield
        finally:
            self._busy.discard(transport)


class _Refusal(asyncio.Protocol):
    """Ends a connection before it begins."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.abort()
