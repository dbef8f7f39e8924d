"""The HTTP server: one uvicorn in this process's event loop on all listen addresses.

Signals belong to the process, not to uvicorn. Stopping lets running requests end within STOP_SECONDS.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from services.rpcapi.settings import RpcapiSettings

STOP_SECONDS = 5
KEEPALIVE_SECONDS = 30


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield


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
