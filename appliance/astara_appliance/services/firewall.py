"""Packet filter, address translation, and counters of traffic labels.

Rules follow section 1.3.4 of the functional description: the management addresses are closed to tenants, requests to
169.254.169.254 go to the metadata proxy of their network.
"""

from typing import ClassVar

from ..backend import State
from ..fields import version_of
from ..models import Configuration
from .base import RecordedService
from .metadata_proxy import METADATA_ADDRESS, listeners


class Firewall(RecordedService):
    """What nftables would be told."""

    __slots__ = ()
    name: ClassVar[str] = "firewall"

    def render(self, configuration: Configuration) -> State:
        """Filter, translation and labels."""
        if not configuration.networks:
            return {}
        external = [self._names.of(network.interface) for network in configuration.networks_of("external")]
        internal = configuration.networks_of("internal")
        return {
            "management": {"addresses": list(self._boot.listen_addresses), "port": self._boot.api_port},
            "forward": configuration.admin_state_up,
            "external": external,
            "internal": [self._names.of(network.interface) for network in internal],
            "snat": [
                {"source": subnet.cidr, "out": ifname}
                for network in internal
                for subnet in network.subnets
                if version_of(subnet.cidr) == 4
                for ifname in external
                if configuration.enable_snat
            ],
            "floating_ips": [
                {"floating_ip": item.floating_ip, "fixed_ip": item.fixed_ip} for item in configuration.floating_ips
            ],
            "metadata": [
                {"ifname": item["ifname"], "destination": METADATA_ADDRESS, "to": item["address"], "port": item["port"]}
                for item in listeners(configuration, self._names)
            ],
            "labels": [
                {"name": label.name, "direction": label.direction, "prefixes": label.prefixes}
                for label in configuration.labels
            ],
        }
