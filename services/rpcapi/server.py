"""The HTTP server: one uvicorn in this process's event loop on all listen addresses.

Signals belong to the process, not to uvicorn. Stopping lets running requests end within STOP_SECONDS. HTTPS looks at
its certificate's files at each handshake, so that a renewed one is shown without a restart.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.common.certificates import CertificateFiles
from services.rpcapi.settings import RpcapiSettings

STOP_SECONDS = 5
KEEPALIVE_SECONDS = 30


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Idle connections end at once: TLS would wait for the farewell of a client that does not listen."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, HttpToolsProtocol):
                answering = connection.cycle is not None and not connection.cycle.response_complete
                if not answering and isinstance(connection.transport, asyncio.Transport):
                    connection.transport.abort()
        await super().shutdown(sockets)


async def serve(app: ASGIApp, settings: RpcapiSettings, sockets: list[socket.socket], stop: asyncio.Event) -> None:
    """Answer until `stop` is set, then let running requests end. SettingsError when a certificate cannot be used."""
    context = _https(settings) if settings.tls_cert else None
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
        ssl_context_factory=(lambda _config, _default: context) if context else None,
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


def _https(settings: RpcapiSettings) -> ssl.SSLContext:
    files = CertificateFiles("[rpcapi] tls_cert or tls_key", certificate=settings.tls_cert, key=settings.tls_key)

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        files.load(context)
        return context

    first = current = make()

    # Called after a client's first words, with a name or without one.
    def greeted(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal current
        if files.look():
            current = make()
        connection.context = current

    first.sni_callback = greeted
    return first
