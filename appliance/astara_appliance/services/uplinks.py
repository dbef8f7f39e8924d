"""Which external network a connection keeps to, where a router has several of them with a gateway each.

What is called from one external network is answered by that one, and a floating IP speaks by the network that it is of,
whatever the default route says: upstreams drop packets whose addresses belong elsewhere. The kernel marks these packets
with the uplink's number, and looks up their default route in the uplink's own table, which has the same number. With
one external network nothing of this is there.
"""

from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network
from typing import NamedTuple

from ..fields import version_of
from ..interfaces import InterfaceNames, number_of
from ..models import Configuration, Network

_FIRST, _NUMBERS = 0x17000, 0x1000


class Uplink(NamedTuple):
    """An external network by which packets leave. `mark` is that of the packets and the number of its table."""

    ifname: str
    network_id: str
    mark: int
    gateways: tuple[str, ...]
    """One for each family at most."""


def uplinks(configuration: Configuration, names: InterfaceNames) -> list[Uplink]:
    """Those between which there is a choice: none, or at least two."""
    found = []
    for network in configuration.networks_of("external"):
        ifname, gateways = names.of(network.interface), tuple(_gateways(configuration, network))
        number = number_of(ifname)
        # Interfaces are numbered as they come: none of these is plugged after four thousand others.
        if number is not None and number < _NUMBERS and gateways and network.interface.state == "up":
            found.append(Uplink(ifname, network.network_id, _FIRST + number, gateways))
    return found if len(found) > 1 else []


def _gateways(configuration: Configuration, network: Network) -> Iterator[str]:
    """Of each family the configuration's default gateway, where it is on the network, or that of a subnet."""
    own = [ip_interface(address) for address in network.interface.addresses]
    named = (configuration.default_v4_gateway, configuration.default_v6_gateway, *configuration.more_default_gateways)
    prefixes = [address.network for address in own] + [ip_network(subnet.cidr) for subnet in network.subnets]
    here = [one for one in named if one and any(ip_address(one) in prefix for prefix in prefixes)]
    ours = {address.ip.compressed for address in own}
    # Those of subnets on which the appliance has an address come first.
    nearby = sorted(network.subnets, key=lambda subnet: not any(one.ip in ip_network(subnet.cidr) for one in own))
    here += [subnet.gateway_ip for subnet in nearby if subnet.gateway_ip and subnet.gateway_ip not in ours]
    for version in (4, 6):
        if chosen := next((one for one in here if version_of(one) == version), None):
            yield chosen
