"""Router advertisements (RFC 4861) on the internal networks whose IPv6 subnets name a mode."""

from typing import Any, ClassVar

from ..backend import State
from ..fields import version_of
from ..models import Configuration, Network
from .base import RecordedService


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
        "managed": "dhcpv6-stateful" in modes,
        "other": bool(modes & {"dhcpv6-stateful", "dhcpv6-stateless"}),
        "mtu": network.interface.mtu or network.mtu or 1500,
        "prefixes": [
            {"prefix": subnet.cidr, "autonomous": subnet.ipv6_ra_mode != "dhcpv6-stateful"} for subnet in subnets
        ],
        "dns": sorted({server for subnet in subnets for server in subnet.dns_nameservers}),
    }
