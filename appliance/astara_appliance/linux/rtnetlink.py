"""Addresses, routes and neighbours of this network namespace, many in one call (rtnetlink(7)).

pyroute2 takes half a millisecond for each address, which is a quarter of a second for five hundred floating IPs; here
the messages of a batch are packed and sent together, and cost what the kernel needs. The kernel answers while the
message is sent, but another namespace's change may keep it waiting, so a thread does.
"""

import asyncio
import errno
import functools
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, ParamSpec, TypeVar

from ..backend import BackendError

PROTOCOL = 170
"""The origin that routes of the appliance have in the kernel (`ip route show proto 170`); free in rt_protos."""

METRIC = 512
"""That of the appliance's routes: behind the kernel's own to connected networks, before any advertised one's."""

MAIN = 254
"""The routing table that everybody's packets follow."""

MANAGEMENT = 170
"""The routing table that only the appliance's own packets to and from the management network follow."""

ANY = 0
"""All routing tables, where routes are asked for."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEXTHOP = struct.Struct("=HBBi")
_NEIGHBOUR = struct.Struct("=BBHiHBB")
_NUMBER = struct.Struct("=I")
_SIGNED = struct.Struct("=i")

_ERROR, _DONE = 2, 3
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWNEIGH, _GETNEIGH = 28, 30
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_REPLACE, _EXCL, _CREATE = 0x100, 0x200, 0x400
_INTERRUPTED, _CAPPED, _TOLD = 0x10, 0x100, 0x200
_NODAD, _NOPREFIXROUTE = 0x02, 0x200
_LINK_SCOPE, _UNICAST, _ONLINK = 253, 1, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE = 1, 4, 5, 6, 9, 15
_NDA_DST, _INCOMPLETE, _FAILED = 1, 0x01, 0x20

_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_TOGETHER, _BUFFER = 64, 2**17

FAMILIES = {4: socket.AF_INET, 16: socket.AF_INET6}
"""By the length of a packed address."""


class Address(NamedTuple):
    """An address with its prefix length on the interface with this index."""

    ifindex: int
    packed: bytes
    length: int

    def __str__(self) -> str:
        return f"{socket.inet_ntop(FAMILIES[len(self.packed)], self.packed)}/{self.length}"


@functools.lru_cache(maxsize=32_768)
def address_of(ifindex: int, text: str) -> Address:
    """The address that `text` (CIDR) spells, on an interface."""
    host, _, length = text.partition("/")
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    return Address(ifindex, packed, int(length) if length else 8 * len(packed))


class Nexthop(NamedTuple):
    """Where packets go: a neighbour behind an interface, on a connected network or declared to be.

    Without a neighbour (`packed` is empty) the destination itself is on the link.
    """

    ifindex: int
    packed: bytes
    is_onlink: bool

    @property
    def text(self) -> str:
        """The neighbour's address; empty without one."""
        return socket.inet_ntop(FAMILIES[len(self.packed)], self.packed) if self.packed else ""


@dataclass(frozen=True, slots=True)
class Route:
    """A route of ours; several next hops share its traffic."""

    destination: bytes
    length: int
    nexthops: frozenset[Nexthop]
    table: int = MAIN

    def __str__(self) -> str:
        return f"{socket.inet_ntop(FAMILIES[len(self.destination)], self.destination)}/{self.length}"


class Request(NamedTuple):
    """One message to the kernel. `words` say what it asks for; errors in `ignored` are as good as success."""

    kind: int
    flags: int
    body: bytes
    words: str
    ignored: tuple[int, ...] = ()


def add_address(address: Address, *, with_route: bool = True) -> Request:
    """Add an address, valid at once: Neutron gives none twice, so nobody needs to be asked.

    Its network becomes a route in the main table, unless `with_route` is off.
    """
    flags = (_NODAD if len(address.packed) == 16 else 0) | (0 if with_route else _NOPREFIXROUTE)
    body = _address_body(address) + attribute(_IFA_FLAGS, _NUMBER.pack(flags))
    return Request(_NEWADDR, _CREATE | _EXCL, body, f"add {address}", (errno.EEXIST,))


def remove_address(address: Address) -> Request:
    """Remove an address; one that is gone, or whose interface is, or all IPv6 of it, is no error."""
    gone = (errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO)
    return Request(_DELADDR, 0, _address_body(address), f"remove {address}", gone)


def put_route(route: Route) -> Request:
    """Add a route, or put it in the place of the one of ours to the same destination."""
    return Request(_NEWROUTE, _CREATE | _REPLACE, _route_body(route), f"route to {route}")


def remove_route(route: Route) -> Request:
    """Remove the route of ours to this destination; one that is gone is no error."""
    body = _route_body(Route(route.destination, route.length, frozenset(), route.table))
    return Request(_DELROUTE, 0, body, f"remove the route to {route}", (errno.ESRCH, errno.ENODEV))


class Rtnetlink:
    """Speaks to the kernel of the network namespace in which it was made."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
            self._socket.bind((0, 0))
            # Short answers with words, and dumps of only what was asked for.
            for option in (_CAP_ACK, _EXT_ACK, _STRICT):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
            self._socket.settimeout(20.0)
        except OSError as error:
            raise BackendError(f"the kernel cannot be spoken to: {error.strerror}") from error
        self._sequence = 0
        self._turn = asyncio.Lock()

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    async def send(self, requests: Sequence[Request]) -> None:
        """Have the kernel do all of these, in this order. Raises `BackendError` with the first that it refused."""
        if requests:
            async with self._turn:
                await _in_thread(self._send, requests)

    async def addresses(self) -> set[Address]:
        """All addresses of all interfaces."""
        async with self._turn:
            return await _in_thread(self._addresses)

    async def routes(self, table: int = MAIN) -> set[Route]:
        """The routes of ours in a table, or in `ANY`."""
        async with self._turn:
            return await _in_thread(self._routes, table)

    async def dump(self, kind: int, body: bytes) -> list[tuple[int, bytes]]:
        """Type and body of every message of an answer to a question for all of a kind."""
        async with self._turn:
            return await _in_thread(self._dump, kind, body)

    async def has_neighbour(self, nexthop: Nexthop) -> bool:
        """Whether a neighbour has answered the kernel's question for its link-layer address."""
        async with self._turn:
            return await _in_thread(self._has_neighbour, nexthop)

    # In the thread

    def _send(self, requests: Sequence[Request]) -> None:
        for start in range(0, len(requests), _TOGETHER):
            self._exchange(requests[start : start + _TOGETHER])

    def _exchange(self, requests: Sequence[Request]) -> None:
        """The kernel goes on behind a message that it refuses, and answers those only, and the last."""
        first = self._sequence + 1
        last = self._sequence = self._sequence + len(requests)
        parcel = bytearray()
        for sequence, request in enumerate(requests, first):
            flags = request.flags | _REQUEST | (_ACK if sequence == last else 0)
            parcel += _HEADER.pack(_HEADER.size + len(request.body), request.kind, flags, sequence, 0) + request.body
        self._socket.send(parcel)
        refusal = None
        is_answered = False
        while not is_answered:
            for kind, flags, sequence, body in _messages(self._socket.recv(_BUFFER)):
                if kind != _ERROR or not first <= sequence <= last:
                    continue
                code = -_SIGNED.unpack_from(body)[0]
                request = requests[sequence - first]
                if code and code not in request.ignored and refusal is None:
                    refusal = f"{request.words}: {_complaint(code, flags, body)}"
                is_answered = is_answered or sequence == last
        if refusal is not None:
            raise BackendError(f"the kernel refuses to {refusal}")

    def _dump(self, kind: int, body: bytes) -> list[tuple[int, bytes]]:
        """Everything of a kind; asked again when it changed meanwhile."""
        while True:
            self._sequence += 1
            header = _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _DUMP, self._sequence, 0)
            self._socket.send(header + body)
            found, is_torn = self._collect()
            if not is_torn:
                return found

    def _collect(self) -> tuple[list[tuple[int, bytes]], bool]:
        found: list[tuple[int, bytes]] = []
        is_torn = False
        while True:
            for kind, flags, sequence, body in _messages(self._socket.recv(_BUFFER)):
                if sequence != self._sequence:
                    continue
                is_torn = is_torn or bool(flags & _INTERRUPTED)
                if kind not in (_DONE, _ERROR):
                    found.append((kind, body))
                    continue
                code = -_SIGNED.unpack_from(body)[0]
                # A routing table that nothing was ever put in does not exist.
                if code not in (0, errno.ENOENT):
                    raise BackendError(f"the kernel does not tell its state: {os.strerror(code)}")
                return found, is_torn

    def _addresses(self) -> set[Address]:
        found = set()
        for kind, body in self._dump(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0)):
            if kind == _NEWADDR:
                _, length, _, _, index = _ADDRESS.unpack_from(body)
                values = dict(attributes(body, _ADDRESS.size))
                found.add(Address(index, values.get(_IFA_LOCAL) or values[_IFA_ADDRESS], length))
        return found

    def _routes(self, wanted: int) -> set[Route]:
        found = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            for kind, body in self._dump(_GETROUTE, _ROUTE.pack(family, 0, 0, 0, wanted, PROTOCOL, 0, 0, 0)):
                _, length, _, _, _, protocol, _, _, flags = _ROUTE.unpack_from(body)
                values = dict(attributes(body, _ROUTE.size))
                # The head's number of a table has one byte.
                table = _NUMBER.unpack(values[_RTA_TABLE])[0] if _RTA_TABLE in values else MAIN
                if kind == _NEWROUTE and wanted in (table, ANY) and protocol == PROTOCOL:
                    found.add(_route(family, length, flags, table, values))
        return found

    def _has_neighbour(self, nexthop: Nexthop) -> bool:
        family = FAMILIES[len(nexthop.packed)]
        body = _NEIGHBOUR.pack(family, 0, 0, nexthop.ifindex, 0, 0, 0) + attribute(_NDA_DST, nexthop.packed)
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), _GETNEIGH, _REQUEST, self._sequence, 0)
        self._socket.send(header + body)
        while True:
            for kind, _, sequence, answer in _messages(self._socket.recv(_BUFFER)):
                if sequence == self._sequence:
                    state: int = _NEIGHBOUR.unpack_from(answer)[4] if kind == _NEWNEIGH else 0
                    return bool(state) and not state & (_INCOMPLETE | _FAILED)


async def _in_thread(call: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
    try:
        return await asyncio.to_thread(call, *arguments, **named)
    except OSError as error:
        raise BackendError(f"the kernel does not answer: {error.strerror}") from error


def _messages(parcel: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and body of each message."""
    at = 0
    while at + _HEADER.size <= len(parcel):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(parcel, at)
        yield kind, flags, sequence, parcel[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def attributes(body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Number and value of each attribute behind the first `at` bytes."""
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        yield kind & 0x3FFF, body[at + _ATTRIBUTE.size : at + length]
        at += max((length + 3) & ~3, _ATTRIBUTE.size)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute of a message, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _complaint(code: int, flags: int, body: bytes) -> str:
    """The kernel's own words where it has some: attribute 1 behind the capped copy of the request's header."""
    if flags & _TOLD and flags & _CAPPED:
        words = dict(attributes(body, _SIGNED.size + _HEADER.size)).get(1, b"").rstrip(b"\0")
        if words:
            return words.decode(errors="replace").rstrip(".")
    return os.strerror(code)


def _address_body(address: Address) -> bytes:
    family = FAMILIES[len(address.packed)]
    head = _ADDRESS.pack(family, address.length, 0, 0, address.ifindex)
    return head + attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)


def _route_body(route: Route) -> bytes:
    family = FAMILIES[len(route.destination)]
    flags = scope = 0
    packed = attribute(_RTA_PRIORITY, _NUMBER.pack(METRIC)) + attribute(_RTA_TABLE, _NUMBER.pack(route.table))
    if route.length:
        packed += attribute(_RTA_DST, route.destination)
    if len(route.nexthops) == 1:
        (nexthop,) = route.nexthops
        if nexthop.packed:
            flags = _ONLINK if nexthop.is_onlink else 0
            packed += attribute(_RTA_GATEWAY, nexthop.packed)
        else:
            scope = _LINK_SCOPE
        packed += attribute(_RTA_OIF, _SIGNED.pack(nexthop.ifindex))
    elif route.nexthops:
        packed += attribute(_RTA_MULTIPATH, b"".join(map(_nexthop_body, sorted(route.nexthops))))
    return _ROUTE.pack(family, route.length, 0, 0, 0, PROTOCOL, scope, _UNICAST, flags) + packed


def _nexthop_body(nexthop: Nexthop) -> bytes:
    gateway = attribute(_RTA_GATEWAY, nexthop.packed)
    flags = _ONLINK if nexthop.is_onlink else 0
    return _NEXTHOP.pack(_NEXTHOP.size + len(gateway), flags, 0, nexthop.ifindex) + gateway


def _route(family: int, length: int, flags: int, table: int, values: dict[int, bytes]) -> Route:
    destination = values.get(_RTA_DST) or bytes(4 if family == socket.AF_INET else 16)
    return Route(destination, length, frozenset(_nexthops(flags, values)), table)


def _nexthops(flags: int, values: dict[int, bytes]) -> Iterable[Nexthop]:
    if (several := values.get(_RTA_MULTIPATH)) is not None:
        at = 0
        while at < len(several):
            size, own_flags, _, index = _NEXTHOP.unpack_from(several, at)
            inner = dict(attributes(several[at : at + size], _NEXTHOP.size))
            yield Nexthop(index, inner.get(_RTA_GATEWAY, b""), bool(own_flags & _ONLINK))
            at += (size + 3) & ~3
    elif _RTA_OIF in values:
        index = _SIGNED.unpack(values[_RTA_OIF])[0]
        yield Nexthop(index, values.get(_RTA_GATEWAY, b""), bool(flags & _ONLINK))
