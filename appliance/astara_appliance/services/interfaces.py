"""Addresses, MTU and state of the interfaces.

The management interface is set up from the boot facts alone: no push can take away the address on which the
orchestrator reaches the appliance.
"""

from ipaddress import ip_interface
from typing import ClassVar

from ..backend import State
from ..interfaces import MANAGEMENT
from ..models import Configuration, Network
from ..validation import FieldError
from .base import RecordedService


class Interfaces(RecordedService):
    """What `ip address` and `ip link` would be told."""

    __slots__ = ()
    name: ClassVar[str] = "interfaces"

    def validate(self, configuration: Configuration) -> list[FieldError]:
        """The management interface carries no tenant's network, and any other one is plugged and carries one network."""
        errors = []
        macs = {link.mac for link in self._backend.links()}
        there = {self._names.names.get(mac) for mac in macs}
        taken: dict[str, int] = {}
        for index, network in enumerate(configuration.networks):
            if network.network_type == "management":
                continue
            place = f"networks[{index}].interface"
            if network.interface.lladdr == self._boot.management.mac:
                errors.append(FieldError(f"{place}.lladdr", "is the management interface's"))
            elif self._names.of(network.interface) == MANAGEMENT:
                errors.append(FieldError(f"{place}.ifname", "is the management interface"))
            elif network.interface.lladdr is not None and network.interface.lladdr not in macs:
                errors.append(FieldError(f"{place}.lladdr", "no interface with this MAC address is plugged"))
            elif self._names.of(network.interface) not in there:
                errors.append(FieldError(f"{place}.ifname", "no such interface is plugged"))
            elif taken.setdefault(self._names.of(network.interface), index) != index:
                other = taken[self._names.of(network.interface)]
                errors.append(FieldError(f"{place}.ifname", f"is the interface of networks[{other}]"))
        return errors

    def render(self, configuration: Configuration) -> State:
        """Each interface by name, management first."""
        management = self._boot.management
        states: State = {
            MANAGEMENT: {
                "lladdr": management.mac,
                "network_type": "management",
                "addresses": [str(ip_interface(address)) for address in management.addresses],
                "mtu": management.mtu,
                "state": "up",
                "description": "",
                "groups": [],
                "media": None,
            }
        }
        for network in configuration.networks:
            if network.network_type != "management":
                states[self._names.of(network.interface)] = _wanted(network)
        return states


def _wanted(network: Network) -> State:
    interface = network.interface
    return {
        "lladdr": interface.lladdr,
        "network_type": network.network_type,
        "addresses": [str(ip_interface(address)) for address in interface.addresses],
        "mtu": interface.mtu or network.mtu or 1500,
        "state": interface.state,
        "description": interface.description,
        "groups": interface.groups,
        "media": interface.media,
    }
