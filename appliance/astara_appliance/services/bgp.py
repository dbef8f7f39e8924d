"""BGP: what BIRD is told. It announces the internal networks to the upstream routers.

IPv6 networks always, IPv4 networks only where nothing is translated: with source NAT nobody outside may know them.
"""

from ipaddress import ip_address, ip_interface
from typing import Any, ClassVar

from ..backend import State
from ..fields import version_of
from ..models import Configuration
from ..validation import FieldError
from .base import RecordedService
from .dhcp import own_address


class Bgp(RecordedService):
    """Sessions with the gateways, and what is announced to them."""

    __slots__ = ()
    name: ClassVar[str] = "bgp"

    def validate(self, configuration: Configuration) -> list[FieldError]:
        """A session needs both numbers."""
        if (configuration.asn is None) == (configuration.neighbor_asn is None):
            return []
        field = "asn" if configuration.asn is None else "neighbor_asn"
        return [FieldError(field, "asn and neighbor_asn are given together or not at all")]

    def render(self, configuration: Configuration) -> State:
        """One session a default gateway; none without AS numbers or while the router is switched off.

        `refused` are the prefixes that no neighbour may teach: the router's own networks and management.
        """
        gateways = [
            gateway
            for gateway in (configuration.default_v4_gateway, configuration.default_v6_gateway)
            if gateway is not None
        ]
        if configuration.asn is None or not gateways or not configuration.admin_state_up:
            return {}
        internal = {subnet.cidr for network in configuration.networks_of("internal") for subnet in network.subnets}
        management = [ip_interface(address).network for address in self._boot.management.addresses]
        connected = [
            ip_interface(address).network
            for network in configuration.networks
            for address in network.interface.addresses
            if network.network_type == "external"
        ]
        return {
            "asn": configuration.asn,
            "neighbors": [
                {"address": gateway, "asn": configuration.neighbor_asn, **self._towards(configuration, gateway)}
                for gateway in gateways
            ],
            "announce": [
                {"prefix": subnet.cidr, "ifname": self._names.of(network.interface)}
                for network in configuration.networks_of("internal")
                for subnet in network.subnets
                # Not where the router is not: a prefix that shall be delegated is "::/64" until it is.
                if own_address(network, subnet) and (version_of(subnet.cidr) == 6 or not configuration.enable_snat)
            ],
            "refused": sorted(internal | {str(network) for network in (*management, *connected)}),
        }

    def _towards(self, configuration: Configuration, gateway: str) -> dict[str, Any]:
        """The external interface on which a gateway is, and the router's own address there; None where not known."""
        address = ip_address(gateway)
        external = configuration.networks_of("external")
        for network in external:
            for own in map(ip_interface, network.interface.addresses):
                if address in own.network:
                    return {"ifname": self._names.of(network.interface), "own": str(own.ip)}
        return {"ifname": self._names.of(external[0].interface) if external else None, "own": None}
