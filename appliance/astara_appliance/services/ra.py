"""Router advertisements (RFC 4861) on the internal networks whose IPv6 subnets name a mode."""

from ipaddress import IPv6Address, ip_address
from typing import Any, ClassVar

from ..backend import State
from ..fields import version_of
from ..models import Configuration, Network
from .base import RecordedService
from .dhcp import is_served, own_address


class RouterAdvertisement(RecordedService):
    """What is advertised where."""

    __slots__ = ()
    name: ClassVar[str] = "ra"

    def render(self, configuration: Configuration) -> State:
        """Each internal network with advertisements, by interface; none while the router is switched off."""
        if not configuration.admin_state_up:
            return {}
        return {
            self._names.of(network.interface): state
            for network in configuration.networks_of("internal")
            if (state := _wanted(network))
        }


def _wanted(network: Network) -> dict[str, Any]:
    subnets = [subnet for subnet in network.subnets if version_of(subnet.cidr) == 6 and subnet.ipv6_ra_mode]
    if not subnets:
        return {}
    modes = {subnet.ipv6_ra_mode for subnet in subnets}
    return {
        "source": _link_local(network.interface.lladdr),
        "managed": "dhcpv6-stateful" in modes,
        "other": bool(modes & {"dhcpv6-stateful", "dhcpv6-stateless"}),
        "mtu": network.interface.mtu or network.mtu or 1500,
        "prefixes": [
            {"prefix": subnet.cidr, "autonomous": subnet.ipv6_ra_mode != "dhcpv6-stateful"} for subnet in subnets
        ],
        "dns": _resolvers(network),
    }


def _link_local(mac: str | None) -> str | None:
    """The address that the kernel makes of a MAC address (RFC 4291, appendix A)."""
    if mac is None:
        return None
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes((octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]))
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + identifier))


def _resolvers(network: Network) -> list[str]:
    """In their order: the servers that the subnets name; else the router itself, where it answers on the network."""
    subnets = [subnet for subnet in network.subnets if version_of(subnet.cidr) == 6 and subnet.ipv6_ra_mode]
    named = [server for subnet in subnets for server in subnet.dns_nameservers]
    if not named and is_served(network):
        named = [own for subnet in subnets if (own := own_address(network, subnet)) is not None]
    # Neutron takes the unspecified address for "none at all"; the option holds IPv6 addresses only (RFC 8106).
    wanted = (server for server in named if version_of(server) == 6 and not ip_address(server).is_unspecified)
    return list(dict.fromkeys(wanted))
