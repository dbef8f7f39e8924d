"""The kernel's rules: which packets look for their route in which table (fib_rules.h).

The appliance's own packets to and from the management network have a table, and so has each uplink, for the packets
with its mark. Uplinks' rules have the origin of the appliance's routes, so an operator's own are left alone.
"""

import errno
import socket
import struct
import sys
from collections.abc import Iterable
from typing import NamedTuple

from .rtnetlink import FAMILIES, MAIN, MANAGEMENT, PROTOCOL, Request, Route, Rtnetlink, attribute, attributes

_HEAD = struct.Struct("=BBBBBxxBI")
_NUMBER = struct.Struct("=I")
_NEW, _DELETE, _GET = 32, 33, 34
_CREATE, _EXCLUSIVE = 0x400, 0x200
_TO_TABLE, _LOCAL = 1, 255
_DESTINATION, _SOURCE, _IFNAME, _PRIORITY, _MARK, _SUPPRESS, _TABLE, _PROTOCOL = 1, 2, 3, 6, 10, 14, 15, 21
# In the order in which the kernel asks them; its own for the main table is 32766.
_TO_MANAGEMENT, _TO_LOCAL, _FROM_MANAGEMENT, _TO_KNOWN, _BY_MARK = 900, 950, 1000, 1900, 2000


class Rule(NamedTuple):
    """Packets with the mark look in the table; with mark 0 all do, and pass over its default routes."""

    family: int
    mark: int
    table: int


def rules_of(routes: Iterable[Route]) -> set[Rule]:
    """What routes in tables of uplinks need."""
    found = set()
    for route in routes:
        if route.table not in (MAIN, MANAGEMENT):
            family = FAMILIES[len(route.destination)]
            found |= {Rule(family, route.table, route.table), Rule(family, 0, MAIN)}
    return found


async def present_rules(rtnetlink: Rtnetlink) -> set[Rule]:
    """Those of uplinks that are there. Raises `BackendError`."""
    found = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for kind, body in await rtnetlink.dump(_GET, _HEAD.pack(family, 0, 0, 0, 0, 0, 0)):
            values = dict(attributes(body, _HEAD.size))
            if kind == _NEW and values.get(_PROTOCOL) == bytes([PROTOCOL]):
                mark, table = (int.from_bytes(values.get(name, b""), sys.byteorder) for name in (_MARK, _TABLE))
                found.add(Rule(family, mark, table))
    return found


def add_rule(rule: Rule) -> Request:
    """Add a rule; one that is there is no error."""
    return Request(_NEW, _CREATE | _EXCLUSIVE, _body(rule), "route uplinks apart", (errno.EEXIST,))


def remove_rule(rule: Rule) -> Request:
    """Remove a rule; one that is gone is no error."""
    return Request(_DELETE, 0, _body(rule), "route uplinks together", (errno.ENOENT,))


def rule_for_own(address: bytes, *, is_source: bool) -> Request:
    """Have the appliance's own packets from (or to) an address follow the management table."""
    length = 8 * len(address)
    head = (FAMILIES[len(address)], 0 if is_source else length, length if is_source else 0, 0, MANAGEMENT, _TO_TABLE, 0)
    body = (
        _HEAD.pack(*head)
        + attribute(_SOURCE if is_source else _DESTINATION, address)
        # What no interface brought is the machine's own.
        + attribute(_IFNAME, b"lo\0")
        + attribute(_PRIORITY, _NUMBER.pack(_FROM_MANAGEMENT if is_source else _TO_MANAGEMENT))
    )
    return Request(_NEW, _CREATE | _EXCLUSIVE, body, "route the management network apart", (errno.EEXIST,))


def rules_for_local_v4() -> list[Request]:
    """Have the machine's own IPv4 addresses looked up behind the rules for the packets *to* an address.

    The kernel looks them up first of all, also for a socket that is bound to another interface (IPv6 does not).
    """
    requests = []
    for kind, priority, flags, ignored in (
        (_NEW, _TO_LOCAL, _CREATE | _EXCLUSIVE, errno.EEXIST),
        (_DELETE, 0, 0, errno.ENOENT),
    ):
        body = _HEAD.pack(socket.AF_INET, 0, 0, 0, _LOCAL, _TO_TABLE, 0)
        body += attribute(_PRIORITY, _NUMBER.pack(priority))
        requests.append(Request(kind, flags, body, "look up local addresses later", (ignored,)))
    return requests


def _body(rule: Rule) -> bytes:
    marked = attribute(_MARK, _NUMBER.pack(rule.mark)) if rule.mark else attribute(_SUPPRESS, _NUMBER.pack(0))
    return (
        _HEAD.pack(rule.family, 0, 0, 0, 0, _TO_TABLE, 0)
        + marked
        + attribute(_TABLE, _NUMBER.pack(rule.table))
        + attribute(_PRIORITY, _NUMBER.pack(_BY_MARK if rule.mark else _TO_KNOWN))
        + attribute(_PROTOCOL, bytes([PROTOCOL]))
    )
