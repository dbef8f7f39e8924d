"""Addresses, MTU and state of the interfaces.

The management interface is set up from the boot facts alone: no push can take away the address on which the
orchestrator reaches the appliance. Floating IPs are addresses of the external interface, too, each by itself (/32), so
the appliance answers for them on the external network. There it also answers for the addresses of hosts inside that it
is told to publish (`proxied`), without having them.
"""

from collections.abc import Iterable
from ipaddress import ip_address, ip_interface
from typing import ClassVar

from ..backend import State
from ..fields import is_of_host, version_of
from ..interfaces import MANAGEMENT
from ..models import Configuration, Network
from ..validation import FieldError
from .base import RecordedService

METADATA_LINK_LOCAL = "fe80::a9fe:a9fe"
"""Where instances ask for metadata over IPv6 (Neutron's METADATA_V6_IP); every internal interface has it."""

MINIMUM_V6_MTU = 1280
"""Bytes; Linux runs no IPv6 on an interface with less (RFC 8200, section 5)."""


# What all addresses that no host may have begin with, and few others.
_STRANGE = ("0.", "127.", "22", "23", "24", "25")
_NO_HOSTS = "is not an address that a host may have"


class Interfaces(RecordedService):
    """What `ip address` and `ip link` would be told."""

    __slots__ = ()
    name: ClassVar[str] = "interfaces"

    def validate(self, configuration: Configuration) -> list[FieldError]:
        """The management interface carries no tenant's network; any other one is plugged and carries one network."""
        links = {link.mac: link for link in self._backend.links()}
        by_name = {self._names.names.get(mac): link for mac, link in links.items()}
        errors = []
        taken: dict[str, int] = {}
        for index, network in enumerate(configuration.networks):
            if network.network_type == "management":
                continue
            place = f"networks[{index}].interface"
            name = self._names.of(network.interface)
            if network.interface.lladdr == self._boot.management.mac:
                errors.append(FieldError(f"{place}.lladdr", "is the management interface's"))
            elif name == MANAGEMENT:
                errors.append(FieldError(f"{place}.ifname", "is the management interface"))
            elif network.interface.lladdr is not None and network.interface.lladdr not in links:
                errors.append(FieldError(f"{place}.lladdr", "no interface with this MAC address is plugged"))
            elif name not in by_name:
                errors.append(FieldError(f"{place}.ifname", "no such interface is plugged"))
            elif taken.setdefault(name, index) != index:
                errors.append(FieldError(f"{place}.ifname", f"is the interface of networks[{taken[name]}]"))
            else:
                errors += _mtu_errors(index, network, by_name[name].max_mtu)
            errors += _address_errors(index, network)
        return errors + _floating_errors(configuration)

    def render(self, configuration: Configuration) -> State:
        """Each interface by name, management first."""
        management = self._boot.management
        states: State = {
            MANAGEMENT: {
                "lladdr": management.mac,
                "network_type": "management",
                "addresses": [str(ip_interface(address)) for address in management.addresses],
                "floating": [],
                "link_local": [],
                "mtu": management.mtu,
                "state": "up",
                "description": "",
                "groups": [],
                "media": None,
            }
        }
        floating = _floating(configuration)
        for network in configuration.networks:
            if network.network_type != "management":
                name = self._names.of(network.interface)
                states[name] = _wanted(network, floating.get(network.network_id, ()))
                if network.network_type == "external" and mtu_of(network) >= MINIMUM_V6_MTU:
                    states[name]["proxied"] = configuration.ndp_proxies or []
        return states


def mtu_of(network: Network) -> int:
    """Bytes; the interface's own MTU goes before its network's."""
    return network.interface.mtu or network.mtu or 1500


def _address_errors(index: int, network: Network) -> Iterable[FieldError]:
    for position, address in enumerate(network.interface.addresses):
        place = f"networks[{index}].interface.addresses[{position}]"
        if not is_of_host(address.partition("/")[0]):
            yield FieldError(place, _NO_HOSTS)
        elif address.endswith("/0"):
            yield FieldError(place, "a prefix length of at least 1 is expected")


def _floating_errors(configuration: Configuration) -> list[FieldError]:
    """A floating IP is no address that stands for something else already.

    Ports of the router's own address may be forwarded; a whole address that is its own would take everything from it.
    """
    networks = configuration.networks
    own = {address.partition("/")[0] for network in networks for address in network.interface.addresses}
    gateways = {configuration.default_v4_gateway, *(one.gateway_ip for network in networks for one in network.subnets)}
    errors = []
    for kind, taken in (("floating_ips", own), ("port_forwardings", set())):
        items = getattr(configuration, kind)
        given = {item.floating_ip for item in items}
        # Thousands are usual, and a wrong one is not.
        wrong = {address: _NO_HOSTS for address in given if address.startswith(_STRANGE) and not is_of_host(address)}
        wrong |= dict.fromkeys(given & gateways, "is a gateway's address")
        wrong |= dict.fromkeys(given & taken, "is the router's own address")
        errors += [
            FieldError(f"{kind}[{index}].floating_ip", wrong[item.floating_ip])
            for index, item in enumerate(items if wrong else ())
            if item.floating_ip in wrong
        ]
    return errors


def _mtu_errors(index: int, network: Network, most: int) -> Iterable[FieldError]:
    mtu = mtu_of(network)
    field = f"networks[{index}].interface.mtu" if network.interface.mtu else f"networks[{index}].mtu"
    if mtu > most:
        yield FieldError(field, f"the plugged interface takes at most {most}")
    if mtu < MINIMUM_V6_MTU and any(version_of(address) == 6 for address in network.interface.addresses):
        yield FieldError(field, f"IPv6 needs {MINIMUM_V6_MTU} at least")


def _wanted(network: Network, floating: Iterable[str]) -> State:
    interface = network.interface
    addresses = [str(ip_interface(address)) for address in interface.addresses]
    own = {address.partition("/")[0] for address in addresses}
    mtu = mtu_of(network)
    is_asked = network.network_type == "internal" and mtu >= MINIMUM_V6_MTU
    return {
        "lladdr": interface.lladdr,
        "network_type": network.network_type,
        "addresses": addresses,
        "floating": [f"{address}/32" for address in sorted(set(floating) - own)],
        "link_local": [f"{METADATA_LINK_LOCAL}/128"] if is_asked and METADATA_LINK_LOCAL not in own else [],
        "mtu": mtu,
        "state": interface.state,
        "description": interface.description,
        "groups": interface.groups,
        "media": interface.media,
    }


def _floating(configuration: Configuration) -> dict[str, list[str]]:
    """The floating IPs by external network; one that only forwards ports is where it is connected."""
    external = configuration.networks_of("external")
    if not external:
        return {}
    found: dict[str, list[str]] = {network.network_id: [] for network in external}
    for item in configuration.floating_ips:
        found.setdefault(item.network_id, []).append(item.floating_ip)
    only_forwarding = {item.floating_ip for item in configuration.port_forwardings}
    if only_forwarding:
        only_forwarding.difference_update(item.floating_ip for item in configuration.floating_ips)
    for address in sorted(only_forwarding):
        home = next((network for network in external if _is_connected(network, address)), external[0])
        found[home.network_id].append(address)
    return found


def _is_connected(network: Network, address: str) -> bool:
    packed = ip_address(address)
    return any(packed in ip_interface(own).network for own in network.interface.addresses)
