"""The HTTP server: one uvicorn in this process's event loop on all listen addresses.

Signals belong to the process, not to uvicorn. Stopping lets running requests end within STOP_SECONDS.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from services.common import logging
from services.common.settings import SettingsError
from services.rpcapi.settings import RpcapiSettings

STOP_SECONDS = 5
KEEPALIVE_SECONDS = 30
BACKLOG = 512

log = logging.get(__name__)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield


def bind(settings: RpcapiSettings) -> list[socket.socket]:
    """Listening sockets for all addresses. SettingsError naming the one that is wrong or taken.

    `::1` is left out, and this said, on a machine without IPv6: it is in the default list.
    """
    bound: list[socket.socket] = []
    for address in settings.listen:
        try:
            bound.append(_listen(address, settings.port))
        except OSError as error:
            if (
                address == "::1"
                and error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
                and len(settings.listen) > 1
            ):
                log.warning("this machine has no IPv6 loopback; not listening there", address=address)
                continue
            for other in bound:
                other.close()
            raise SettingsError(
                f"[rpcapi] listen: {address} port {settings.port}: {error.strerror or error}"
            ) from error
    return bound


def _listen(address: str, port: int) -> socket.socket:
    family, kind, protocol, _, name = socket.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(name)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


async def serve(app: ASGIApp, settings: RpcapiSettings, sockets: list[socket.socket], stop: asyncio.Event) -> None:
    """Answer until `stop` is set, then let running requests end."""
    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=KEEPALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        ssl_certfile=settings.tls_cert or None,
        ssl_keyfile=settings.tls_key or None,
    )
    server = _Server(config)

    async def end() -> None:
        await stop.wait()
        server.should_exit = True

    ending = asyncio.ensure_future(end())
    try:
        await server.serve(sockets)
    finally:
        ending.cancel()
