"""Who has an address on a link, as the kernel's neighbour table knows it (rtnetlink(7), RTM_GETNEIGH)."""

import asyncio
import socket
import struct

_HEADER = struct.Struct("=IHHII")
_NEIGHBOUR = struct.Struct("=BBHiHBB")
_ATTRIBUTE = struct.Struct("=HH")

_NEWNEIGH, _GETNEIGH, _REQUEST = 28, 30, 0x1
_NDA_DST, _NDA_LLADDR = 1, 2
_SECONDS = 2.0
_BUFFER = 2**14


async def mac_of(address: str, link: int) -> str | None:
    """The MAC address behind an IPv6 address (no zone) on the interface of index `link`; None when nobody is known.

    One entry is asked for, nothing is dumped. Raises OSError.
    """
    # The kernel answers at once, unless another change of its tables keeps it.
    return await asyncio.to_thread(_ask, socket.inet_pton(socket.AF_INET6, address), link)


def _ask(packed: bytes, link: int) -> str | None:
    body = _NEIGHBOUR.pack(socket.AF_INET6, 0, 0, link, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _NDA_DST) + packed
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_SECONDS)
        kernel.bind((0, 0))
        kernel.send(_HEADER.pack(_HEADER.size + len(body), _GETNEIGH, _REQUEST, 1, 0) + body)
        answer = kernel.recv(_BUFFER)
    length, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind != _NEWNEIGH:
        return None
    at = _HEADER.size + _NEIGHBOUR.size
    while at + _ATTRIBUTE.size <= length:
        size, name = _ATTRIBUTE.unpack_from(answer, at)
        if name == _NDA_LLADDR:
            return answer[at + _ATTRIBUTE.size : at + size].hex(":")
        at += max((size + 3) & ~3, _ATTRIBUTE.size)
    return None
