"""DHCP and DHCPv6: what dnsmasq would serve on the internal networks. Only known hosts get an answer."""

from ipaddress import ip_address, ip_network
from typing import Any, ClassVar

from ..backend import State
from ..fields import version_of
from ..models import Configuration, Network, Subnet
from .base import RecordedService


class Dhcp(RecordedService):
    """Subnets, options and hosts."""

    __slots__ = ()
    name: ClassVar[str] = "dhcp"

    def render(self, configuration: Configuration) -> State:
        """Each internal network that has a subnet with DHCP, by interface."""
        return {
            self._names.of(network.interface): state
            for network in configuration.networks_of("internal")
            if (state := _wanted(network))
        }


def _wanted(network: Network) -> dict[str, Any]:
    served = [subnet for subnet in network.subnets if _is_served(subnet)]
    cidrs = [ip_network(subnet.cidr) for subnet in served]
    hosts = [
        {"mac_address": item.mac_address, "hostname": item.hostname, "addresses": addresses}
        for item in network.address_allocations
        if (
            addresses := [
                address
                for address, wanted in item.ip_addresses.items()
                if wanted and any(ip_address(address) in cidr for cidr in cidrs)
            ]
        )
    ]
    if not served:
        return {}
    return {
        "mtu": network.interface.mtu or network.mtu or 1500,
        "subnets": [
            {
                "cidr": subnet.cidr,
                "gateway": subnet.gateway_ip,
                "dns": subnet.dns_nameservers,
                "routes": [[route.destination, route.nexthop] for route in subnet.host_routes],
                "mode": subnet.ipv6_address_mode,
            }
            for subnet in served
        ],
        "hosts": hosts,
    }


def _is_served(subnet: Subnet) -> bool:
    """DHCPv6 answers in the two modes that want it; with SLAAC the addresses come from advertisements."""
    wants = version_of(subnet.cidr) == 4 or subnet.ipv6_address_mode in ("dhcpv6-stateful", "dhcpv6-stateless")
    return subnet.dhcp_enabled and wants
