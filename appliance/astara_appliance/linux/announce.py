"""Telling neighbours where an address lives now: gratuitous ARP and unsolicited neighbour advertisements.

Each announcement is sent at once and twice more, because nobody answers it (RFC 5227, section 2.3; RFC 4861, section
7.2.6). Thousands are spread over time; an interface that is gone or down meanwhile is
nothing to complain of.
"""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from ..backend import BackendError
from .checksum import checksum

REPEATS = (1.0, 3.0)
"""Seconds after which an announcement is sent again."""

RATE = 1_000
"""Announcements a second, over all interfaces."""

_BURST = 50
_ARP, _IPV6 = 0x0806, 0x86DD
_ICMPV6, _ADVERTISEMENT = 58, 136
_ROUTER_OVERRIDE = 0xA0000000
_TARGET_LINK_LAYER = 2
_BROADCAST = b"\xff" * 6
_ALL_NODES = socket.inet_pton(socket.AF_INET6, "ff02::1")
_ALL_NODES_MAC = bytes.fromhex("333300000001")


class Announcement(NamedTuple):
    """An address (4 or 16 bytes) that the interface with this MAC address (6 bytes) has."""

    ifname: str
    mac: bytes
    address: bytes


class Announcer:
    """Sends announcements in the background of the loop that made it."""

    def __init__(self) -> None:
        """Raises `BackendError` when the kernel gives no packet socket."""
        try:
            # No protocol: it sends and never receives.
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            self._socket.setblocking(False)
        except OSError as error:
            raise BackendError(f"addresses cannot be announced: {error.strerror}") from error
        self._tasks: set[asyncio.Task[None]] = set()

    def announce(self, announcements: Iterable[Announcement]) -> None:
        """Send these now and again later."""
        pending = list(announcements)
        if pending:
            # The first few go out before anything else happens.
            for one in pending[:_BURST]:
                self._send(one)
            task = asyncio.get_running_loop().create_task(self._spread(pending))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Send no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()

    async def _spread(self, pending: list[Announcement]) -> None:
        await self._paced(deque(pending[_BURST:]))
        for pause in REPEATS:
            await asyncio.sleep(pause)
            await self._paced(deque(pending))

    async def _paced(self, waiting: "deque[Announcement]") -> None:
        while waiting:
            for _ in range(min(_BURST, len(waiting))):
                self._send(waiting.popleft())
            await asyncio.sleep(_BURST / RATE)

    def _send(self, one: Announcement) -> None:
        frame, protocol = (_arp(one), _ARP) if len(one.address) == 4 else (_advertisement(one), _IPV6)
        # Whoever missed it hears the next one, or asks.
        with contextlib.suppress(OSError):
            self._socket.sendto(frame, (one.ifname, protocol))


def _arp(one: Announcement) -> bytes:
    """An ARP request for the own address: it corrects caches, and answers nobody's question (RFC 5944, section 4.6)."""
    ethernet = _BROADCAST + one.mac + struct.pack(">H", _ARP)
    return ethernet + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + one.mac + one.address + bytes(6) + one.address


def _advertisement(one: Announcement) -> bytes:
    """From the address itself to all nodes, with the flags Router and Override."""
    message = struct.pack(">BBHI", _ADVERTISEMENT, 0, 0, _ROUTER_OVERRIDE) + one.address
    message += struct.pack(">BB", _TARGET_LINK_LAYER, 1) + one.mac
    pseudo = one.address + _ALL_NODES + struct.pack(">IxxxB", len(message), _ICMPV6)
    message = message[:2] + struct.pack(">H", checksum(pseudo + message)) + message[4:]
    ipv6 = struct.pack(">IHBB", 6 << 28, len(message), _ICMPV6, 255) + one.address + _ALL_NODES
    return _ALL_NODES_MAC + one.mac + struct.pack(">H", _IPV6) + ipv6 + message
