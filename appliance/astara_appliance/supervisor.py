"""What systemd is told of the agent (sd_notify(3)): that it is ready, and again and again that it lives.

Without systemd nothing is told and nothing is missing.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping


class Supervisor:
    """The one that the environment names, if any."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        # Names that begin with @ are of the abstract kind, which the kernel spells with a zero.
        self._address = environment.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self._within = int(environment.get("WATCHDOG_USEC", "0")) / 1e6

    def ready(self) -> None:
        """The API listens."""
        self._tell(b"READY=1")

    def stopping(self) -> None:
        """The agent ends because it was asked to."""
        self._tell(b"STOPPING=1")

    async def keep_alive(self) -> None:
        """Tell that the loop turns, twice in the time that is given, until cancelled."""
        while self._within:
            self._tell(b"WATCHDOG=1")
            await asyncio.sleep(self._within / 2)
        await asyncio.Event().wait()

    def _tell(self, words: bytes) -> None:
        if not self._address:
            return
        # It may be restarting itself: then it asks nobody for signs of life.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.setblocking(False)
            own.sendto(words, self._address)
