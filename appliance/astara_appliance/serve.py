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
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path

from aiohttp import web

from .agent import APPLIANCE, create_app
from .appliance import Appliance
from .backend import Backend, RecordingBackend
from .boot import BootData
from .certificates import Certificates
from .interfaces import MANAGEMENT
from .linux.compose import compose
from .machine import links
from .supervisor import Supervisor

# linux/in.h; Python has no name for it. It lets the agent listen before the address is there (IPv6 addresses are not
# at once), for both families.
_IP_FREEBIND = 15
_LOOK_EVERY = 1.0
_CERTIFICATES_EVERY = 5.0

_log = logging.getLogger(__name__)


class Listener:
    """The sockets of the API."""

    def __init__(self, boot: BootData, runner: web.AppRunner, certificates: Certificates, device: str | None) -> None:
        """Once opened it listens on the management addresses, on `device` only (None: on whichever has them)."""
        self._boot = boot
        self._runner = runner
        self._certificates = certificates
        self._device = device
        self._sockets: list[socket.socket] = []
        self._sites: list[web.SockSite] = []

    async def open(self) -> None:
        """Listen anew: on the interface that has the device's name now. Raises OSError."""
        await self._stop()
        for own in self._sockets:
            own.close()
        addresses = self._boot.listen_addresses
        self._sockets = [_listening(address, self._boot.api_port, self._device) for address in addresses]
        await self._serve()

    async def renew(self) -> None:
        """Speak with the certificates that are there now; connections that are open stay as they are."""
        if self._certificates.changed():
            await self._stop()
            await self._serve()
            _log.info("the certificates were renewed")

    async def _serve(self) -> None:
        for own in self._sockets:
            # A server closes its socket when it stops; those who wait behind the other one do not notice.
            site = web.SockSite(self._runner, own.dup(), ssl_context=self._certificates.context)
            await site.start()
            self._sites.append(site)

    async def _stop(self) -> None:
        for site in self._sites:
            await site.stop()
        self._sites.clear()

    def close(self) -> None:
        """Listen no more; the runner ends what is open."""
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
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=5.0)
    listener = Listener(boot, runner, certificates, device)
    try:
        await runner.setup()
        await listener.open()
        _log.info("listening on %s, port %d", ", ".join(boot.listen_addresses), boot.api_port)
        yield app[APPLIANCE], listener
    finally:
        await runner.cleanup()
        listener.close()


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
