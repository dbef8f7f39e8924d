"""Whether the upstream answers: the default gateways and the configured targets are pinged in the background.

The agent sends the echo requests itself. A gateway that answers no echo is taken to be there while the kernel has its
link-layer address: the requests make the kernel ask for it again and again. What was found is kept, so asking costs
nothing.
"""

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..backend import BackendError, Reachable, State
from ..fields import version_of
from .checksum import checksum
from .links import Links
from .rtnetlink import Nexthop, Rtnetlink

EVERY = 3.0
"""Seconds between two rounds."""

SOON = 0.25
"""Seconds between the first rounds after the gateways changed."""

LATELY = 10.0
"""Seconds for which an answer counts."""

_SOON_ROUNDS = 8
_DEFAULTS = ("0.0.0.0/0", "::/0")
_ECHO = struct.Struct(">BBHHH")
_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}
# linux/icmp.h and linux/icmpv6.h: bits of the types that the socket shall not get.
_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER = 255, 1, 1

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Target:
    """One that is asked. A gateway is behind an interface; `answered` is a time of the clock."""

    address: str
    ifname: str | None = None
    answered: float | None = None
    is_neighbour: bool = False


class Prober:
    """Asks as long as `run` runs."""

    def __init__(
        self,
        links: Links,
        rtnetlink: Rtnetlink,
        targets: Iterable[str],
        identity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`targets` are addresses besides the gateways; `identity` (16 bits) tells this prober's requests from others'.

        Raises `BackendError` when the kernel gives no sockets.
        """
        self._links = links
        self._rtnetlink = rtnetlink
        self._fixed = tuple(targets)
        self._identity = identity
        self._clock = clock
        self._targets: dict[str, _Target] = {}
        self._reachable = Reachable()
        self._aimed = asyncio.Event()
        self._sequence = 0
        try:
            self._sockets = {4: _socket_v4(), 6: _socket_v6()}
        except OSError as error:
            raise BackendError(f"gateways cannot be probed: {error.strerror}") from error
        self.aim({})

    @property
    def reachable(self) -> Reachable:
        """What was found lately."""
        return self._reachable

    def aim(self, routes: State) -> None:
        """Ask the default gateways of the state of `services.routes`; what is known of one that stays is kept."""
        gateways = {
            route["nexthop"]: _Target(route["nexthop"], route["ifname"])
            for route in routes.get("routes", ())
            if route["destination"] in _DEFAULTS
        }
        wanted = {address: _Target(address) for address in self._fixed} | gateways
        self._targets = {
            address: former
            if (former := self._targets.get(address)) is not None and former.ifname == target.ifname
            else target
            for address, target in wanted.items()
        }
        self._judge()
        self._aimed.set()

    async def run(self) -> None:
        """Ask until cancelled."""
        loop = asyncio.get_running_loop()
        for version, own in self._sockets.items():
            loop.add_reader(own, self._hear, version, own)
        soon = 0
        try:
            while True:
                if self._aimed.is_set():
                    self._aimed.clear()
                    soon = _SOON_ROUNDS
                await self._ask()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._aimed.wait(), SOON if soon > 0 else EVERY)
                soon -= 1
        finally:
            for own in self._sockets.values():
                loop.remove_reader(own)

    def close(self) -> None:
        """Release the sockets; `run` has ended."""
        for own in self._sockets.values():
            own.close()

    async def _ask(self) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFF
        for target in list(self._targets.values()):
            version = version_of(target.address)
            device = None if target.ifname is None else self._links.device(target.ifname)
            ifindex = 0 if device is None else device.ifindex
            where = (target.address, 0) if version == 4 else (target.address, 0, 0, ifindex)
            # No route, no neighbour: no answer, which is what is asked for.
            with contextlib.suppress(OSError):
                self._sockets[version].sendto(self._request(version), where)
            if device is not None:
                target.is_neighbour = await self._is_neighbour(target.address, ifindex)
        self._judge()

    async def _is_neighbour(self, address: str, ifindex: int) -> bool:
        family = socket.AF_INET if version_of(address) == 4 else socket.AF_INET6
        try:
            return await self._rtnetlink.has_neighbour(Nexthop(ifindex, socket.inet_pton(family, address), False))
        except BackendError as error:
            _log.warning("the neighbour %s cannot be looked up: %s", address, error)
            return False

    def _request(self, version: int) -> bytes:
        head = _ECHO.pack(_REQUEST[version], 0, 0, self._identity, self._sequence)
        if version == 6:
            # The kernel adds the checksum, for which it needs the source address.
            return head
        return _ECHO.pack(_REQUEST[version], 0, checksum(head), self._identity, self._sequence)

    def _hear(self, version: int, own: socket.socket) -> None:
        # Until there is no more; what is wrong with an interface shows in the next round.
        with contextlib.suppress(OSError):
            while True:
                packet, sender = own.recvfrom(2048)
                # IPv4's own header comes with it.
                at = (packet[0] & 0xF) * 4 if version == 4 else 0
                if len(packet) < at + _ECHO.size:
                    continue
                kind, _, _, identity, _ = _ECHO.unpack_from(packet, at)
                target = self._targets.get(sender[0].partition("%")[0])
                if kind == _REPLY[version] and identity == self._identity and target is not None:
                    target.answered = self._clock()
                    self._judge()

    def _judge(self) -> None:
        since = self._clock() - LATELY
        versions = {
            version_of(target.address)
            for target in self._targets.values()
            if target.is_neighbour or (target.answered is not None and target.answered > since)
        }
        self._reachable = Reachable(4 in versions, 6 in versions)


def _socket_v4() -> socket.socket:
    own = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
    own.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << _REPLY[4]) & 0xFFFFFFFF))
    return own


def _socket_v6() -> socket.socket:
    own = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
    word, bit = divmod(_REPLY[6], 32)
    blocked = [0xFFFFFFFF & ~(1 << bit) if number == word else 0xFFFFFFFF for number in range(8)]
    own.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *blocked))
    return own
