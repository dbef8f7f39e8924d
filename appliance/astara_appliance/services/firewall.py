"""Packet filter, address translation, and counters of traffic labels.

The state holds facts, not rules: which interfaces are on which side, which address stands for which. The rules that
follow from them never change (`linux.ruleset`). Before the first configuration everything is closed but management.
Requests to the metadata address go to the proxy of their network (section 1.3.4 of the functional description).
"""

from typing import Any, ClassVar

from ..backend import State
from ..fields import version_of
from ..models import Configuration, Network
from .base import RecordedService
from .metadata_proxy import listeners
from .uplinks import uplinks


class Firewall(RecordedService):
    """What nftables is told."""

    __slots__ = ()
    name: ClassVar[str] = "firewall"

    def render(self, configuration: Configuration) -> State:
        """The facts; those of a closed firewall for an empty configuration.

        `masks` gives the address behind which what leaves on an interface hides, unless it has a floating IP: on the
        external side none without `enable_snat`; on the internal side it is for those who call a floating IP of their
        own router. `routed` are the subnets that may be called from the external side by their own addresses. From the
        `guarded` interfaces only `published` IPv6 addresses are reached. Connections keep to one of the `uplinks`;
        `speakers` are the addresses whose floating IP says which.
        """
        external = configuration.networks_of("external")
        internal = configuration.networks_of("internal")
        own = {self._names.of(network.interface): _first_v4(network) for network in external}
        outside = next((address for address in own.values() if address is not None), None)
        masks = {ifname: address for ifname, address in own.items() if address and configuration.enable_snat}
        masks |= {self._names.of(network.interface): outside for network in internal if outside}
        gateways = (configuration.default_v4_gateway, configuration.default_v6_gateway)
        ways = uplinks(configuration, self._names)
        marks = {way.network_id: way.mark for way in ways}
        return {
            "management": {"addresses": list(self._boot.listen_addresses), "port": self._boot.api_port},
            "forward": configuration.admin_state_up and bool(configuration.networks),
            "external": list(own),
            "internal": [self._names.of(network.interface) for network in internal],
            "neighbors": [gateway for gateway in gateways if gateway and configuration.asn is not None],
            "masks": [{"out": ifname, "address": address} for ifname, address in masks.items()],
            "routed": [
                subnet.cidr
                for network in internal
                for subnet in network.subnets
                if version_of(subnet.cidr) == 4 and external and not configuration.enable_snat
            ],
            "floating_ips": [
                {"floating_ip": item.floating_ip, "fixed_ip": item.fixed_ip} for item in configuration.floating_ips
            ],
            "port_forwardings": [
                {
                    "floating_ip": item.floating_ip,
                    "protocol": item.protocol,
                    "external_ports": [item.external_ports[0], item.external_ports[-1]],
                    "fixed_ip": item.fixed_ip,
                    "internal_ports": [item.internal_ports[0], item.internal_ports[-1]],
                }
                for item in configuration.port_forwardings
            ],
            "metadata": self._metadata(configuration),
            "labels": [
                {"name": label.name, "direction": label.direction, "prefixes": label.prefixes}
                for label in configuration.labels
            ],
            "rate_limits": [limit.model_dump() for limit in configuration.rate_limits],
            "guarded": [] if configuration.ndp_proxies is None else list(own),
            "published": configuration.ndp_proxies or [],
            "helpers": [helper.model_dump() for helper in configuration.conntrack_helpers],
            "uplinks": [{"ifname": way.ifname, "mark": way.mark} for way in ways],
            "speakers": [
                {"address": item.fixed_ip, "mark": marks[item.network_id]}
                for item in configuration.floating_ips
                if item.network_id in marks
            ],
        }

    def _metadata(self, configuration: Configuration) -> list[dict[str, Any]]:
        return [
            {
                "ifname": item["ifname"],
                "destination": item["destination"],
                "to": item["address"],
                "port": item["port"],
            }
            for item in listeners(configuration, self._names)
        ]


def _first_v4(network: Network) -> str | None:
    found = (address.partition("/")[0] for address in network.interface.addresses if version_of(address) == 4)
    return next(found, None)
