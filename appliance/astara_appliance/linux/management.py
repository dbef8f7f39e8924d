"""The management interface, set up from the boot facts alone, before the agent listens.

The management network is kept apart from those of tenants, who may have the same addresses and routes of any kind: it
is in a routing table of its own, which only packets of the appliance itself follow, those from its management addresses
and those to the orchestrator. What is forwarded never finds it. The orchestrator's address leads there even when the
appliance has the same address on a tenant's network.
"""

import ipaddress
import socket

from ..backend import BackendError
from ..boot import BootData
from ..interfaces import MANAGEMENT as NAME
from . import sysctl
from .links import Links
from .rtnetlink import (
    MANAGEMENT,
    Nexthop,
    Request,
    Route,
    Rtnetlink,
    add_address,
    address_of,
    put_route,
)
from .rules import rule_for_own, rules_for_local_v4


async def set_up(boot: BootData, links: Links, rtnetlink: Rtnetlink) -> None:
    """Make the management interface as it shall be; what is right already is left alone. Raises `BackendError`.

    Addresses that somebody else gave it stay: the image may have its own ways of reaching it.
    """
    facts = boot.management
    await links.rename_one(facts.mac, NAME)
    device = links.device(NAME)
    if device is None:
        raise BackendError(f"the management interface, {facts.mac}, is not plugged")
    sysctl.harden(NAME)
    sysctl.forward_v4(NAME, False)
    if facts.mtu != device.mtu:
        await links.set(NAME, mtu=facts.mtu)
    if not device.is_up:
        await links.set(NAME, state="up")
    there = await rtnetlink.addresses()
    wanted = [address_of(device.ifindex, str(ipaddress.ip_interface(address))) for address in facts.addresses]
    requests = [add_address(address, with_route=False) for address in wanted if address not in there]
    known = await rtnetlink.routes(MANAGEMENT)
    requests += [put_route(route) for route in _routes(boot, device.ifindex) if route not in known]
    await rtnetlink.send(requests + _rules(boot))


def _rules(boot: BootData) -> list[Request]:
    own = [ipaddress.ip_interface(address).ip.packed for address in boot.management.addresses]
    theirs = [_packed(address) for address in boot.orchestrator.addresses]
    return [
        *(rule_for_own(address, is_source=True) for address in own),
        *(rule_for_own(address, is_source=False) for address in theirs),
        *(rules_for_local_v4() if any(len(address) == 4 for address in theirs) else ()),
    ]


def _routes(boot: BootData, ifindex: int) -> list[Route]:
    facts = boot.management
    found = [_on_link(ipaddress.ip_interface(address).network, ifindex) for address in facts.addresses]
    if facts.gateway is not None:
        gateway = _packed(facts.gateway)
        step = Nexthop(ifindex, gateway, not ipaddress.ip_address(facts.gateway).is_link_local)
        found.append(Route(bytes(len(gateway)), 0, frozenset([step]), MANAGEMENT))
    return found


def _on_link(network: ipaddress.IPv4Network | ipaddress.IPv6Network, ifindex: int) -> Route:
    step = Nexthop(ifindex, b"", False)
    return Route(network.network_address.packed, network.prefixlen, frozenset([step]), MANAGEMENT)


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
