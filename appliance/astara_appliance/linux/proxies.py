"""IPv6 addresses for which the machine answers on a link though a host behind it has them (`ip -6 neigh … proxy`).

The kernel answers neighbours' questions for them once `proxy_ndp` is on, and forgets them with the interface's IPv6.
"""

import errno
import socket
import struct
from typing import Any

from .rtnetlink import Address, Request, Rtnetlink, attribute, attributes

_NEIGHBOUR = struct.Struct("=BBHiHBB")
_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_CREATE, _REPLACE = 0x400, 0x100
_PERMANENT, _PROXY = 0x80, 0x08
_NDA_DST = 1


def texts(facts: dict[str, Any] | None) -> list[str]:
    """The addresses that an interface with these facts answers for: none while it is down, as the kernel does."""
    if facts is None or facts["state"] != "up":
        return []
    # States of earlier releases know of none.
    return [f"{address}/128" for address in facts.get("proxied", ())]


def add_proxy(address: Address) -> Request:
    """Answer for an address on its interface."""
    return Request(_NEWNEIGH, _CREATE | _REPLACE, _body(address, _PERMANENT), f"answer for {address}")


def remove_proxy(address: Address) -> Request:
    """Answer for an address no more; one for which nobody answers is no error."""
    gone = (errno.ENOENT, errno.ENODEV)
    return Request(_DELNEIGH, 0, _body(address, 0), f"answer no more for {address}", gone)


async def proxies(rtnetlink: Rtnetlink) -> set[Address]:
    """All that the machine answers for. Raises `BackendError`."""
    found = set()
    for kind, body in await rtnetlink.dump(_GETNEIGH, _NEIGHBOUR.pack(socket.AF_INET6, 0, 0, 0, 0, _PROXY, 0)):
        _, _, _, index, _, flags, _ = _NEIGHBOUR.unpack_from(body)
        if kind == _NEWNEIGH and flags & _PROXY:
            found.add(Address(index, dict(attributes(body, _NEIGHBOUR.size))[_NDA_DST], 128))
    return found


def _body(address: Address, state: int) -> bytes:
    head = _NEIGHBOUR.pack(socket.AF_INET6, 0, 0, address.ifindex, state, _PROXY, 0)
    return head + attribute(_NDA_DST, address.packed)
