"""BGP: what BIRD would be told. It announces the internal IPv6 networks to the upstream routers."""

from typing import ClassVar

from ..backend import State
from ..fields import version_of
from ..models import Configuration
from ..validation import FieldError
from .base import RecordedService


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
        """One session a default gateway; none without AS numbers or while the router is switched off."""
        neighbors = [
            gateway
            for gateway in (configuration.default_v4_gateway, configuration.default_v6_gateway)
            if gateway is not None
        ]
        if configuration.asn is None or not neighbors or not configuration.admin_state_up:
            return {}
        return {
            "asn": configuration.asn,
            "neighbors": [{"address": address, "asn": configuration.neighbor_asn} for address in neighbors],
            "announce": [
                subnet.cidr
                for network in configuration.networks_of("internal")
                for subnet in network.subnets
                if version_of(subnet.cidr) == 6
            ],
        }
