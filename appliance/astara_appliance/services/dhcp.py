"""DHCP, DHCPv6 and DNS: what dnsmasq serves on the internal networks. Only known hosts get an answer."""

from collections.abc import Container, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import Any, ClassVar

from ..backend import State
from ..fields import version_of
from ..models import Allocation, Configuration, Network, Subnet
from ..validation import FieldError
from .base import RecordedService
from .dhcp_options import usable
from .metadata_proxy import METADATA_ADDRESS

DOMAIN = "openstacklocal"
"""The domain of all hosts' names: Neutron's default for `dns_domain`."""

_MOST_ROUTE_BYTES = 255

_Cidr = IPv4Network | IPv6Network


class Dhcp(RecordedService):
    """Subnets, options and hosts."""

    __slots__ = ()
    name: ClassVar[str] = "dhcp"

    def validate(self, configuration: Configuration) -> list[FieldError]:
        """The routes of a subnet fit into one DHCP option (RFC 3442)."""
        return [
            FieldError(
                f"networks[{index}].subnets[{position}].host_routes",
                f"take more than the {_MOST_ROUTE_BYTES} bytes of a DHCP option",
            )
            for index, network in enumerate(configuration.networks)
            if network.network_type == "internal"
            for position, subnet in enumerate(network.subnets)
            if _is_served(network, subnet) and _bytes_of(_routes(subnet, "0.0.0.0")) > _MOST_ROUTE_BYTES
        ]

    def render(self, configuration: Configuration) -> State:
        """Each internal network that has a subnet with DHCP, by interface."""
        management = self._management()
        # A router that asked itself would ask for ever.
        own = {address.partition("/")[0] for one in configuration.networks for address in one.interface.addresses}
        return {
            self._names.of(network.interface): _wanted(network, management, own)
            for network in configuration.networks_of("internal")
            if is_served(network)
        }

    def _management(self) -> list[_Cidr]:
        """What must not be asked on a tenant's behalf: the management networks, and what is reached through them."""
        boot = self._boot
        found = [ip_interface(address).network for address in boot.management.addresses]
        beyond = [*boot.orchestrator.addresses, *([boot.management.gateway] if boot.management.gateway else [])]
        hosts = (ip_network(address) for address in beyond)
        return [*found, *(host for host in hosts if not any(_is_within(host, network) for network in found))]


def _is_within(host: _Cidr, network: _Cidr) -> bool:
    return host.network_address in network


def is_served(network: Network) -> bool:
    """Whether dnsmasq runs on a network, for DHCP and as the resolver of its hosts' names."""
    return any(_is_served(network, subnet) for subnet in network.subnets)


def own_address(network: Network, subnet: Subnet) -> str | None:
    """The router's address in a subnet; None when it has none there."""
    cidr = ip_network(subnet.cidr)
    hosts = (address.partition("/")[0] for address in network.interface.addresses)
    return next((host for host in hosts if ip_address(host) in cidr), None)


def _wanted(network: Network, management: Iterable[_Cidr], own: Container[str]) -> dict[str, Any]:
    served = [subnet for subnet in network.subnets if _is_served(network, subnet)]
    given = [ip_network(subnet.cidr) for subnet in served if subnet.ipv6_address_mode != "dhcpv6-stateless"]
    return {
        "mtu": network.interface.mtu or network.mtu or 1500,
        "domain": DOMAIN,
        "upstream": sorted({server for subnet in network.subnets for server in _resolvers(subnet, management, own)}),
        "hidden": sorted(str(cidr) for cidr in management),
        "subnets": [_subnet(subnet, own_address(network, subnet)) for subnet in served],
        "hosts": [_host(item, given) for item in network.address_allocations],
    }


def _subnet(subnet: Subnet, own: str | None) -> dict[str, Any]:
    servers = subnet.dns_nameservers or ([own] if own else [])
    return {
        "cidr": subnet.cidr,
        "gateway": subnet.gateway_ip,
        # Neutron takes the unspecified address for "none at all".
        "dns": [server for server in servers if not ip_address(server).is_unspecified],
        "routes": _routes(subnet, own) if version_of(subnet.cidr) == 4 else [],
        "mode": subnet.ipv6_address_mode,
    }


def _routes(subnet: Subnet, own: str | None) -> list[list[str]]:
    """All routes of a host: one that gets any in this option ignores the router option (RFC 3442)."""
    routes = [[route.destination, route.nexthop] for route in subnet.host_routes]
    destinations = {destination for destination, _ in routes}
    if own is not None and f"{METADATA_ADDRESS}/32" not in destinations:
        routes.append([f"{METADATA_ADDRESS}/32", own])
    if subnet.gateway_ip is not None and "0.0.0.0/0" not in destinations:
        routes.append(["0.0.0.0/0", subnet.gateway_ip])
    return routes


def _bytes_of(routes: Iterable[list[str]]) -> int:
    return sum(1 + (ip_network(destination).prefixlen + 7) // 8 + 4 for destination, _ in routes)


def _resolvers(subnet: Subnet, management: Iterable[_Cidr], own: Container[str]) -> Iterable[str]:
    """Servers that the router may ask on behalf of a network: none that a tenant made up to reach what it must not."""
    for server in subnet.dns_nameservers:
        if server in own:
            continue
        address = ip_address(server)
        strange = address.is_unspecified or address.is_loopback or address.is_link_local or address.is_multicast
        if not strange and not any(address in cidr for cidr in management):
            yield server


def _host(allocation: Allocation, given: Iterable[_Cidr]) -> dict[str, Any]:
    """`addresses` are those that DHCP gives, `names` all that its name stands for."""
    host: dict[str, Any] = {
        "mac_address": allocation.mac_address,
        "hostname": allocation.hostname.partition(".")[0],
        "addresses": [
            address
            for address, wanted in allocation.ip_addresses.items()
            if wanted and any(ip_address(address) in cidr for cidr in given)
        ],
        "names": list(allocation.ip_addresses),
    }
    if options := usable(allocation.extra_dhcp_opts):
        host["options"] = options
    return host


def _is_served(network: Network, subnet: Subnet) -> bool:
    """Where the router has an address; with SLAAC, hosts get theirs from advertisements."""
    wants = version_of(subnet.cidr) == 4 or subnet.ipv6_address_mode in ("dhcpv6-stateful", "dhcpv6-stateless")
    return subnet.dhcp_enabled and wants and own_address(network, subnet) is not None
