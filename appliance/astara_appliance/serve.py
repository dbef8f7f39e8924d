"""The agent as a process: the API on the management addresses, on the management interface only, until a signal.

The listening sockets outlive a change of certificates, so no caller is refused meanwhile. What the services have set up
goes on moving packets when the agent ends.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path

from aiohttp import web

from .agent import APPLIANCE, create_app
from .appliance import Appliance
from .backend import Backend, RecordingBackend
from .boot import BootData
from .certificates import Certificates
from .connections import Bounded
from .interfaces import MANAGEMENT
from .linux.compose import compose
from .machine import links
from .supervisor import Supervisor

# linux/in.h; Python has no name for it. It lets the agent listen before the address is there (IPv6 addresses are not
# at once), for both families.
_IP_FREEBIND = 15
_LOOK_EVERY = 1.0
_CONNECTIONS = 256
_HANDSHAKE = 5.0
_BACKLOG = 128
_CERTIFICATES_EVERY = 5.0

_log = logging.getLogger(__name__)
# aiohttp logs each request that is no HTTP with a traceback: whoever is on management could fill the log.
_silent = logging.getLogger(f"{__name__}.http")
_silent.setLevel(logging.CRITICAL)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Listener:
    """The sockets of the API."""

    def __init__(self, boot: BootData, accept: Bounded, certificates: Certificates, device: str | None) -> None:
        """Once opened it listens on the management addresses, on `device` only (None: on whichever has them)."""
        self._boot = boot
        self._accept = accept
        self._certificates = certificates
        self._device = device
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []

    async def open(self) -> None:
        """Listen anew: on the interface that has the device's name now. Raises OSError."""
        self._stop()
        for own in self._sockets:
            own.close()
        addresses = self._boot.listen_addresses
        self._sockets = [_listening(address, self._boot.api_port, self._device) for address in addresses]
        await self._serve()

    async def renew(self) -> None:
        """Speak with the certificates that are there now; connections that are open stay as they are."""
        if self._certificates.changed():
            self._stop()
            await self._serve()
            _log.info("the certificates were renewed")

    async def _serve(self) -> None:
        for own in self._sockets:
            # A server closes its socket when it stops; those who wait behind the other one do not notice.
            context = self._certificates.context
            server = await asyncio.get_running_loop().create_server(
                self._accept, sock=own.dup(), backlog=_BACKLOG, ssl=context,
                ssl_handshake_timeout=None if context is None else _HANDSHAKE,
            )  # fmt: skip
            self._servers.append(server)

    def _stop(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def close(self) -> None:
        """Listen no more; what is open goes on."""
        self._stop()
        for own in self._sockets:
            own.close()


async def serve(boot: BootData, state_dir: Path, runtime_dir: Path, tls_dir: Path) -> None:
    """Run the appliance on this machine until SIGTERM or SIGINT.

    Raises `BackendError` when management cannot be set up, OSError when the API cannot be listened on, and
    `CertificateError`.
    """
    certificates = Certificates(tls_dir)
    backend = compose(boot, runtime_dir, state_dir)
    try:
        await backend.open()
        async with _running(boot, state_dir, backend, certificates, MANAGEMENT) as (appliance, listener):
            heard_on = backend.management_interface()

            async def links_changed() -> None:
                nonlocal heard_on
                await _tell(appliance)
                # A socket keeps to the interface that had the name when it was made.
                if heard_on != (now := backend.management_interface()) and now is not None:
                    await listener.open()
                    heard_on = now

            await _until_signalled(backend.attend(links_changed), _renew(listener))
    finally:
        await backend.close()


async def serve_recording(boot: BootData, state_dir: Path, tls_dir: Path) -> None:
    """Run an appliance that only records what it is told and leaves the machine alone, until SIGTERM or SIGINT.

    Raises OSError when the API cannot be listened on, and `CertificateError`.
    """
    backend = RecordingBackend(links())

    async def look() -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            if backend.replace_links(links()):
                await _tell(appliance)

    async with _running(boot, state_dir, backend, Certificates(tls_dir), None) as (appliance, listener):
        await _until_signalled(look(), _renew(listener))


@contextlib.asynccontextmanager
async def _running(
    boot: BootData, state_dir: Path, backend: Backend, certificates: Certificates, device: str | None
) -> AsyncIterator[tuple[Appliance, Listener]]:
    """The appliance, with its API listening."""
    app = create_app(boot, state_dir, backend)
    runner = web.AppRunner(app, access_log=None, logger=_silent, handler_cancellation=True, shutdown_timeout=5.0)
    listener: Listener | None = None

    @web.middleware
    async def keep(request: web.Request, handler: Handler) -> web.StreamResponse:
        with accept.in_hand(request):
            return await handler(request)

    app.middlewares.append(keep)
    try:
        await runner.setup()
        if runner.server is None:
            raise RuntimeError("the application has no server behind its set-up")
        accept = Bounded(runner.server, _CONNECTIONS)
        listener = Listener(boot, accept, certificates, device)
        await listener.open()
        _log.info("listening on %s, port %d", ", ".join(boot.listen_addresses), boot.api_port)
        yield app[APPLIANCE], listener
    finally:
        if listener is not None:
            listener.close()
        await runner.cleanup()


async def _until_signalled(*beside: Coroutine[None, None, None]) -> None:
    """Run these until SIGTERM or SIGINT. What one of them raises ends all."""
    supervisor = Supervisor()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tasks = {asyncio.ensure_future(one) for one in (*beside, supervisor.keep_alive(), stop.wait())}
    # What was loaded stays for good: looking for garbage among it would cost every large push tens of milliseconds.
    gc.collect()
    gc.freeze()
    supervisor.ready()
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        supervisor.stopping()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _tell(appliance: Appliance) -> None:
    """Something was plugged or unplugged."""
    try:
        await appliance.links_changed()
    except OSError as error:
        # Names of interfaces that cannot be kept today are kept with the next push.
        _log.error("the state cannot be kept: %s", error)


async def _renew(listener: Listener) -> None:
    while True:
        await asyncio.sleep(_CERTIFICATES_EVERY)
        await listener.renew()


def _listening(address: str, port: int, device: str | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if device is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        listener.bind((address, port))
    except OSError:
        listener.close()
        raise
    return listener
