"""What the kernel says of a machine's interfaces: that something changed, and what a router advertised."""

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

from pyroute2 import AsyncIPRoute

# linux/rtnetlink.h: links, addresses of both families, and the flags of router advertisements.
_GROUPS = 0x1 | 0x10 | 0x100 | 0x800
# net/if_inet6.h, as IFLA_INET6_FLAGS carries them.
_MANAGED = 0x40
_OTHER = 0x80
_TENTATIVE = 0x40
_GLOBAL = 0


@dataclass(frozen=True)
class Interface:
    """One Ethernet interface. `managed` and `other` are what the last router advertisement said (RFC 4861, 4.2)."""

    name: str
    index: int
    mac: str
    managed: bool
    other: bool
    addresses: tuple[str, ...]
    """Global ones that may be used, as CIDR."""


def changes() -> socket.socket:
    """A socket on which something arrives whenever an interface, an address or an advertised flag changes."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    made.bind((0, _GROUPS))
    made.setblocking(False)
    return made


async def interfaces(kernel: AsyncIPRoute) -> list[Interface]:
    """All Ethernet interfaces but loopback, as they are now."""
    addresses: dict[int, list[str]] = {}
    async for message in await kernel.get_addr():
        if message["scope"] == _GLOBAL and not message["flags"] & _TENTATIVE:
            address = message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")
            addresses.setdefault(message["index"], []).append(f"{address}/{message['prefixlen']}")
    return [
        Interface(
            link.get("IFLA_IFNAME"),
            link["index"],
            link.get("IFLA_ADDRESS"),
            bool(_flags(link) & _MANAGED),
            bool(_flags(link) & _OTHER),
            tuple(sorted(addresses.get(link["index"], ()), key=_order)),
        )
        async for link in await kernel.get_links()
        if link.get("IFLA_IFNAME") != "lo"
    ]


def _flags(link: Any) -> int:
    return int(link.get(("IFLA_AF_SPEC", "AF_INET6", "IFLA_INET6_FLAGS")) or 0)


def _order(cidr: str) -> tuple[int, str]:
    return ipaddress.ip_interface(cidr).version, cidr
