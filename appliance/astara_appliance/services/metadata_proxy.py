"""The metadata proxies: one for each internal network, on port 9600 + the number of its interface."""

from ipaddress import ip_address
from typing import Any, ClassVar

from ..backend import State
from ..fields import version_of
from ..interfaces import InterfaceNames, number_of
from ..models import Allocation, Configuration
from ..validation import FieldError
from .base import RecordedService
from .interfaces import METADATA_LINK_LOCAL, MINIMUM_V6_MTU, mtu_of

METADATA_ADDRESS = "169.254.169.254"
FIRST_PORT = 9600


def listeners(configuration: Configuration, names: InterfaceNames) -> list[dict[str, Any]]:
    """Network, interface and port of each proxy that shall listen; one an IP version.

    `destination` is what instances ask, `address` the interface's own to which that leads. An interface without a
    number has none, nor has one IPv4 without an IPv4 address. IPv6 needs none but the metadata address itself, which
    every interface has that can do IPv6 (`interfaces`).
    """
    found = []
    for network in configuration.networks_of("internal"):
        ifname = names.of(network.interface)
        number = number_of(ifname)
        if number is None:
            continue
        v4 = (address.partition("/")[0] for address in network.interface.addresses if version_of(address) == 4)
        own = {METADATA_ADDRESS: next(v4, None)}
        if mtu_of(network) >= MINIMUM_V6_MTU:
            own[METADATA_LINK_LOCAL] = METADATA_LINK_LOCAL
        found += [
            {
                "network_id": network.network_id,
                "ifname": ifname,
                "destination": destination,
                "address": address,
                "port": FIRST_PORT + number,
            }
            for destination, address in own.items()
            if address is not None
        ]
    return found


class MetadataProxy(RecordedService):
    """Which proxies listen where, and to whom they forward."""

    __slots__ = ()
    name: ClassVar[str] = "metadata_proxy"

    def validate(self, configuration: Configuration) -> list[FieldError]:
        """The number of an interface must give a port."""
        return [
            FieldError(f"networks[{index}].interface.ifname", "its number is too high for a metadata proxy's port")
            for index, network in enumerate(configuration.networks)
            if FIRST_PORT + (number_of(self._names.of(network.interface)) or 0) > 65535
        ]

    def render(self, configuration: Configuration) -> State:
        """The listeners, who is on their networks, and the orchestrator's addresses.

        `hosts` has by interface and MAC address the address under which Neutron knows a host: one that asks from its
        link-local address is known by its MAC address only.
        """
        found = listeners(configuration, self._names)
        if not found:
            return {}
        orchestrator = self._boot.orchestrator
        return {
            "listeners": found,
            "hosts": {
                self._names.of(network.interface): {
                    item.mac_address: address
                    for item in network.address_allocations
                    if (address := _first(item)) is not None
                }
                for network in configuration.networks_of("internal")
            },
            "forward_to": list(orchestrator.addresses),
            "port": orchestrator.metadata_port,
        }


def _first(allocation: Allocation) -> str | None:
    return min(allocation.ip_addresses, key=lambda text: (version_of(text), ip_address(text)), default=None)
