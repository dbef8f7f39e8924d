"""Routes and forwarding.

With `admin_state_up` false the interfaces keep their addresses and nothing is forwarded (section "The state machine" of
the architecture). The default routes lead to the external network, also where the gateway is on none of its connected
subnets. Host routes of the subnets, which hosts get by DHCP, are the appliance's as well where it can follow them; one
destination has one origin: extra routes go before the gateway's and before those of subnets, as in Neutron's own agent.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network
from typing import ClassVar, NamedTuple

from ..backend import State
from ..fields import is_of_host, version_of
from ..interfaces import InterfaceNames
from ..models import Configuration, Network
from ..validation import FieldError
from .base import RecordedService
from .uplinks import uplinks

_DEFAULTS = {4: "0.0.0.0/0", 6: "::/0"}


class _Connected(NamedTuple):
    """A network that the appliance has an address on, or is told of as a subnet of an attached network."""

    cidr: IPv4Network | IPv6Network
    ifname: str
    has_address: bool


class Routes(RecordedService):
    """What `ip route` and the forwarding switches would be told."""

    __slots__ = ()
    name: ClassVar[str] = "routes"

    def validate(self, configuration: Configuration) -> list[FieldError]:
        """Gateways and the next hops of extra routes are other hosts, and these are neighbours."""
        connected = _connected(configuration, self._names)
        own = _own(configuration)
        errors = []
        more = configuration.more_default_gateways
        gateways = [
            ("default_v4_gateway", configuration.default_v4_gateway),
            ("default_v6_gateway", configuration.default_v6_gateway),
            *((f"more_default_gateways[{index}]", gateway) for index, gateway in enumerate(more)),
        ]
        for field, gateway in gateways:
            if gateway is not None and (gateway in own or not is_of_host(gateway) or _is_broadcast(gateway, connected)):
                errors.append(FieldError(field, "is not the address of another host"))
        for index, route in enumerate(configuration.static_routes):
            field = f"static_routes[{index}].nexthop"
            if route.nexthop in own:
                errors.append(FieldError(field, "is an address of the appliance itself"))
            elif _towards(route.nexthop, connected) is None or _is_broadcast(route.nexthop, connected):
                errors.append(FieldError(field, "is on no connected subnet"))
        return errors

    def render(self, configuration: Configuration) -> State:
        """Default routes of both families, the extra routes, and the subnets' host routes; and those of `uplinks`."""
        if not configuration.networks:
            return {}
        connected = _connected(configuration, self._names)
        outside = [
            self._names.of(network.interface)
            for network in configuration.networks_of("external")
            if network.interface.state == "up"
        ]
        gateways = (
            configuration.default_v4_gateway,
            configuration.default_v6_gateway,
            *configuration.more_default_gateways,
        )
        extra = [(route.destination, route.nexthop) for route in configuration.static_routes]
        defaults: dict[str, list[str]] = {}
        for gateway in filter(None, gateways):
            defaults.setdefault(_DEFAULTS[version_of(gateway)], []).append(gateway)
        chosen: dict[str, list[State]] = {}
        for destination, nexthop in extra:
            # Several next hops to one destination share its traffic (Neutron's extension ecmp_routes).
            chosen.setdefault(destination, []).extend(_route(destination, nexthop, connected, []))
        for destination, nexthops in defaults.items():
            if not chosen.get(destination):
                chosen[destination] = [
                    route for nexthop in nexthops for route in _route(destination, nexthop, connected, outside)
                ]
        for destination, nexthop in _host_routes(configuration):
            if not chosen.get(destination):
                chosen[destination] = _route(destination, nexthop, connected, [])
        return {
            "forwarding": configuration.admin_state_up,
            "interfaces": [
                self._names.of(network.interface)
                for network in configuration.networks
                if network.network_type != "management"
            ],
            "routes": [route for group in chosen.values() for route in group],
            "uplinks": [
                {**route, "mark": uplink.mark}
                for uplink in uplinks(configuration, self._names)
                for gateway in uplink.gateways
                for route in _route(_DEFAULTS[version_of(gateway)], gateway, connected, [uplink.ifname])
            ],
        }


def reachable_routes(configuration: Configuration, names: InterfaceNames) -> Configuration:
    """The configuration without the extra routes whose next hop is on no connected subnet."""
    connected = _connected(configuration, names)
    kept = [route for route in configuration.static_routes if _towards(route.nexthop, connected) is not None]
    return configuration.model_copy(update={"static_routes": kept})


def _host_routes(configuration: Configuration) -> list[tuple[str, str]]:
    """Those of the internal subnets that lead to somebody else; a default route among them is for hosts only."""
    own = _own(configuration)
    return [
        (route.destination, route.nexthop)
        for network in configuration.networks_of("internal")
        for subnet in network.subnets
        for route in subnet.host_routes
        if route.nexthop not in own and is_of_host(route.nexthop) and route.destination not in _DEFAULTS.values()
    ]


def _own(configuration: Configuration) -> set[str]:
    return {
        address.partition("/")[0]
        for network in configuration.networks
        if network.network_type != "management"
        for address in network.interface.addresses
    }


def _connected(configuration: Configuration, names: InterfaceNames) -> list[_Connected]:
    found = []
    for network in configuration.networks:
        if network.network_type != "management" and network.interface.state == "up":
            found += _connected_by(network, names.of(network.interface))
    return found


def _connected_by(network: Network, ifname: str) -> list[_Connected]:
    addresses = [ip_interface(address).network for address in network.interface.addresses]
    with_address = [_Connected(cidr, ifname, True) for cidr in addresses if cidr.num_addresses > 1]
    subnets = [ip_network(subnet.cidr) for subnet in network.subnets]
    return with_address + [_Connected(cidr, ifname, False) for cidr in subnets if cidr not in addresses]


def _towards(nexthop: str, connected: list[_Connected]) -> _Connected | None:
    """The connected network that a next hop is on: of several the most specific, and one with an address first.

    A link-local next hop says nothing of its interface, so no extra route can have one.
    """
    address: IPv4Address | IPv6Address = ip_address(nexthop)
    found = [one for one in connected if one.cidr.version == address.version and address in one.cidr]
    return max(found, key=lambda one: (one.has_address, one.cidr.prefixlen), default=None)


def _is_broadcast(nexthop: str, connected: list[_Connected]) -> bool:
    """Whether an IPv4 address is all hosts of a connected network; a /31 has none such (RFC 3021)."""
    if version_of(nexthop) == 6:
        return False
    address = ip_address(nexthop)
    return any(one.cidr.prefixlen < 31 and address == one.cidr.broadcast_address for one in connected)


def _route(destination: str, nexthop: str, connected: list[_Connected], fallback: list[str]) -> list[State]:
    """The route as a list; it goes over the first of `fallback` when its next hop is on none of those networks."""
    towards = _towards(nexthop, connected)
    if _is_broadcast(nexthop, connected):
        return []
    if towards is not None and (not fallback or towards.ifname in fallback):
        ifname, is_onlink = towards.ifname, not towards.has_address
    elif fallback:
        # A link-local gateway is a neighbour on any interface.
        ifname, is_onlink = fallback[0], not ip_address(nexthop).is_link_local
    else:
        return []
    return [
        {
            "version": version_of(nexthop),
            "destination": destination,
            "nexthop": nexthop,
            "ifname": ifname,
            "onlink": is_onlink,
        }
    ]
