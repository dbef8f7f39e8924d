"""Questions and answers between this process and the kernel's netfilter, over netlink; no program is started.

Blocking and short: what may be long (a listing of all connections) is asked for in a thread. Numbers are those of
linux/netfilter/nfnetlink.h and nf_tables.h; all errors are `BackendError`.
"""

import errno
import itertools
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing

from ..backend import BackendError, Counter

Attributes = dict[int, bytes]

_NETLINK_NETFILTER = 12
_CONNTRACK, _NFTABLES = 1 << 8, 10 << 8
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_NEW_GENERATION, _GET_GENERATION = 15, 16
_NESTED, _ATTRIBUTE_TYPE = 0x8000, 0x3FFF

_INET, _COUNTER = 1, 1
_OBJECT_TABLE, _OBJECT_NAME, _OBJECT_TYPE, _OBJECT_DATA = 1, 2, 3, 4
_GET_OBJECT, _GET_AND_RESET_OBJECT = 19, 21
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2

_WAIT = 10.0
_BUFFER = 1 << 18


def generation() -> int:
    """The number of changes that were made to this namespace's nftables, modulo 2³²."""
    for attributes in _asked(_NFTABLES | _GET_GENERATION, socket.AF_UNSPEC, b"", _REQUEST):
        return int.from_bytes(attributes[1], "big")
    raise BackendError("the kernel does not tell the generation of its nftables")


def counters(table: str, *, reset: bool = False) -> dict[str, Counter]:
    """The named counters of an inet table by name; empty without such a table.

    With `reset` the kernel takes what it answers off each counter, so no packet goes uncounted.
    """
    kind = _GET_AND_RESET_OBJECT if reset else _GET_OBJECT
    wanted = attribute(_OBJECT_TABLE, table.encode() + b"\0") + attribute(_OBJECT_TYPE, struct.pack(">I", _COUNTER))
    found: dict[str, Counter] = {}
    for attributes in _asked(_NFTABLES | kind, _INET, wanted, _REQUEST | _DUMP):
        values = parse(attributes[_OBJECT_DATA])
        packets, octets = (int.from_bytes(values[which], "big") for which in (_COUNTER_PACKETS, _COUNTER_BYTES))
        name = attributes[_OBJECT_NAME].rstrip(b"\0").decode()
        # A listing during which somebody changed the table may tell a counter twice: the second time what came since.
        before = found.get(name, Counter()) if reset else Counter()
        found[name] = Counter(before.packets + packets, before.bytes + octets)
    return found


def connections(wanted: bytes) -> Iterator[Attributes]:
    """The IPv4 connections that fit the attributes `wanted`."""
    return _asked(_CONNTRACK | 1, socket.AF_INET, wanted, _REQUEST | _DUMP)


def delete_connection(which: bytes) -> None:
    """Drop the IPv4 connection that the attributes `which` name; one that is gone already is no error."""
    for _ in _asked(_CONNTRACK | 2, socket.AF_INET, which, _REQUEST | _ACK):
        pass


def attribute(kind: int, value: bytes, *, nested: bool = False) -> bytes:
    """One attribute."""
    header = struct.pack("=HH", len(value) + 4, kind | (_NESTED if nested else 0))
    return header + value + bytes(-len(value) % 4)


def parse(data: bytes) -> Attributes:
    """The attributes in `data` by their kind."""
    found: Attributes = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        found[kind & _ATTRIBUTE_TYPE] = data[at + 4 : at + length]
        at += max(length + 3 & ~3, 4)
    return found


_sequence = itertools.count(1)


def _asked(kind: int, family: int, wanted: bytes, flags: int) -> Iterator[Attributes]:
    """Send one request; yields the attributes of each answer until the last."""
    number = next(_sequence) & 0xFFFFFFFF
    body = struct.pack("=BBH", family, 0, 0) + wanted
    request = struct.pack("=IHHII", len(body) + 16, kind, flags, number, 0) + body
    kinds = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    try:
        with closing(socket.socket(socket.AF_NETLINK, kinds, _NETLINK_NETFILTER)) as line:
            line.settimeout(_WAIT)
            line.send(request)
            yield from _answers(line, number, flags)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise BackendError(f"the kernel's netfilter refused: {error.strerror or error}") from error


def _answers(line: socket.socket, number: int, flags: int) -> Iterator[Attributes]:
    while True:
        data = line.recv(_BUFFER)
        at = 0
        while at + 16 <= len(data):
            length, kind, _, answered, _ = struct.unpack_from("=IHHII", data, at)
            body = data[at + 16 : at + length]
            at += length + 3 & ~3
            if answered != number:
                continue
            if kind == _DONE:
                return
            if kind == _ERROR:
                code = -struct.unpack_from("=i", body)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                return
            yield parse(body[4:])
            if not flags & (_ACK | _DUMP):
                return
