"""How a service runs: settings, logging, signals, one event loop, and an exit code.

SIGTERM and SIGINT set the stop event that `main` gets; it drains and returns. A SettingsError is one line on standard
error and exit code 2. An AddressTakenError is one line and exit code 1, everything else that escapes is logged and exit
code 1: the supervisor tries again.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib import metadata
from typing import Any

import uvloop

from services.common import logging
from services.common.listen import AddressTakenError
from services.common.settings import CommonSettings, Settings, SettingsError, load

Main = Callable[[Settings, asyncio.Event], Awaitable[None]]


def version() -> str:
    """The installed version of Astara."""
    return metadata.version("astara")


def host_name(settings: CommonSettings) -> str:
    """The configured host, or the machine's name."""
    return settings.host or socket.gethostname()


def run(
    service: str, classes: Sequence[type[Any]], main: Main, argv: Sequence[str] | None = None, *, extra: Any = None
) -> int:
    """Run a service until a signal stops it; answers with the process's exit code."""
    try:
        settings = load(f"astara-{service}", argv, (CommonSettings, *classes), extra=extra)
    except SettingsError as error:
        sys.stderr.write(f"astara-{service}: {error}\n")
        return 2
    logging.setup(service, settings[CommonSettings])
    log = logging.get(__name__)

    async def supervised() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        log.info("starting", version=version())
        await main(settings, stop)
        log.info("stopped")

    try:
        uvloop.run(supervised())
    except SettingsError as error:
        sys.stderr.write(f"astara-{service}: {error}\n")
        return 2
    except AddressTakenError as error:
        log.error("cannot listen", error=str(error))  # noqa: TRY400 - who has the port is not in a traceback
        return 1
    except Exception:
        log.exception("ended by an error")
        return 1
    return 0


async def run_until(stop: asyncio.Event, *jobs: Awaitable[None]) -> None:
    """Run jobs until `stop` is set, then cancel them; a job that fails or ends by itself ends all, with its error."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    waiter = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait([*tasks, waiter], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {waiter}:
            task.result()
    finally:
        for task in (*tasks, waiter):
            task.cancel()
        await asyncio.gather(*tasks, waiter, return_exceptions=True)
