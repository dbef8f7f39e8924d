"""What a configuration may not contradict: duplicates, families that do not fit, subnets that overlap.

Each `of_…` function looks at one well-typed object and yields every `Wrong` in it, placed relative to that object;
`check` turns them into one pydantic error, which `validation` unfolds again. An object is judged when all below it is
right by itself.
"""

import ipaddress
from collections.abc import Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from pydantic_core import PydanticCustomError

from .fields import version_of

if TYPE_CHECKING:
    from .models import Configuration, Interface, Label, Network, PortForwarding, Route, Subnet

Place = tuple[str | int, ...]

# Neutron gives a subnet this CIDR until the delegated prefix is known, so several may have it.
_PREFIX_TO_BE_DELEGATED = "::/64"
# Each costs the kernel an entry of its own; a single forwarding may have 65,535.
_MOST_FORWARDED_PORTS = 131_072
_LINK_LOCAL = ipaddress.ip_network("fe80::/10")


class Wrong(NamedTuple):
    """One contradiction: where, relative to the object that was looked at, and why."""

    place: Place
    message: str


def check(wrong: Iterable[Wrong]) -> None:
    """Raise one pydantic error that carries all of `wrong`, if there is any."""
    found = list(wrong)
    if found:
        raise PydanticCustomError("inconsistent", "the object contradicts itself", {"wrong": found})


def of_route(route: "Route") -> Iterator[Wrong]:
    """A next hop must be of the family of its destination."""
    if version_of(route.destination) != version_of(route.nexthop):
        yield Wrong(("nexthop",), "is not of the address family of the destination")


def of_interface(interface: "Interface") -> Iterator[Wrong]:
    """An interface has an address once."""
    hosts = (address.partition("/")[0] for address in interface.addresses)
    yield from _twice((("addresses", index), host, "address") for index, host in enumerate(hosts))


def of_subnet(subnet: "Subnet") -> Iterator[Wrong]:
    """Gateway, servers and modes must fit the subnet's family."""
    version = version_of(subnet.cidr)
    if subnet.gateway_ip is not None and version_of(subnet.gateway_ip) != version:
        yield Wrong(("gateway_ip",), f"is not an IPv{version} address")
    if version == 4:
        for field in ("ipv6_address_mode", "ipv6_ra_mode"):
            if getattr(subnet, field) is not None:
                yield Wrong((field,), "is only for IPv6 subnets")
    elif None not in (subnet.ipv6_address_mode, subnet.ipv6_ra_mode) and (
        subnet.ipv6_address_mode != subnet.ipv6_ra_mode
    ):
        yield Wrong(("ipv6_ra_mode",), "differs from ipv6_address_mode")
    for index, route in enumerate(subnet.host_routes):
        if version_of(route.destination) != version:
            yield Wrong(("host_routes", index, "destination"), f"is not an IPv{version} network")
    yield from _twice((("dns_nameservers", index), name, "server") for index, name in enumerate(subnet.dns_nameservers))
    yield from _twice(
        (("host_routes", index), (route.destination, route.nexthop), "route")
        for index, route in enumerate(subnet.host_routes)
    )


def of_network(network: "Network") -> Iterator[Wrong]:
    """On one network a MAC address belongs to one allocation, and so does an IP address."""
    allocations = network.address_allocations
    yield from _twice(
        (("address_allocations", index, "mac_address"), item.mac_address, "MAC address")
        for index, item in enumerate(allocations)
    )
    yield from _twice(
        (("address_allocations", index, "ip_addresses", address), address, "address")
        for index, item in enumerate(allocations)
        for address in item.ip_addresses
    )


def of_port_forwarding(forwarding: "PortForwarding") -> Iterator[Wrong]:
    """Every external port has its counterpart."""
    external, internal = forwarding.external_ports, forwarding.internal_ports
    if not external:
        yield Wrong(("external_port_end",), "is lower than external_port")
    if not internal:
        yield Wrong(("internal_port_end",), "is lower than internal_port")
    elif len(internal) not in (1, len(external)):
        yield Wrong(("internal_port_end",), "one port, or as many as external ones, are expected")


def of_label(label: "Label") -> Iterator[Wrong]:
    """A prefix is counted once."""
    yield from _twice((("prefixes", index), prefix, "prefix") for index, prefix in enumerate(label.prefixes))


def of_configuration(configuration: "Configuration") -> Iterator[Wrong]:
    """Names and addresses are given once, and the internal networks' subnets do not overlap."""
    for field, version in (("default_v4_gateway", 4), ("default_v6_gateway", 6)):
        gateway = getattr(configuration, field)
        if gateway is not None and version_of(gateway) != version:
            yield Wrong((field,), f"an IPv{version} address is expected")
    places: list[tuple[Place, str | None]] = [
        (("default_v4_gateway",), configuration.default_v4_gateway),
        (("default_v6_gateway",), configuration.default_v6_gateway),
        *((("more_default_gateways", index), one) for index, one in enumerate(configuration.more_default_gateways)),
    ]
    yield from _twice((place, gateway, "gateway") for place, gateway in places if gateway is not None)
    yield from _between_networks(configuration.networks)
    yield from _twice(
        (("static_routes", index), (route.destination, route.nexthop), "route")
        for index, route in enumerate(configuration.static_routes)
    )
    floating_ips = configuration.floating_ips
    for field, keys in (
        ("id", [item.id for item in floating_ips]),
        ("floating_ip", [item.floating_ip for item in floating_ips]),
    ):
        # Thousands are usual, and a repetition is not.
        if len(set(keys)) < len(keys):
            yield from _twice((("floating_ips", index, field), key, "floating IP") for index, key in enumerate(keys))
    yield from _between_forwardings(configuration.port_forwardings)
    yield from _twice(
        (("labels", index), (label.name, label.direction), "label") for index, label in enumerate(configuration.labels)
    )
    yield from _twice(
        (("rate_limits", index, "addresses", position), (limit.direction, address), "address")
        for index, limit in enumerate(configuration.rate_limits)
        for position, address in enumerate(limit.addresses)
    )
    yield from _twice(
        (("conntrack_helpers", index, "port"), (item.protocol, item.port), "port")
        for index, item in enumerate(configuration.conntrack_helpers)
    )
    proxies = configuration.ndp_proxies or ()
    yield from _twice((("ndp_proxies", index), address, "address") for index, address in enumerate(proxies))


def _between_networks(networks: "list[Network]") -> Iterator[Wrong]:
    named = list(enumerate(networks))
    yield from _twice((("networks", index, "network_id"), item.network_id, "network") for index, item in named)
    yield from _twice(
        (("networks", index, "interface", "ifname"), item.interface.ifname, "interface") for index, item in named
    )
    yield from _twice(
        (("networks", index, "interface", "lladdr"), item.interface.lladdr, "MAC address")
        for index, item in named
        if item.interface.lladdr is not None
    )
    yield from _twice(
        (("networks", index, "network_type"), item.network_type, "management network")
        for index, item in named
        if item.network_type == "management"
    )
    # Link-local addresses mean something on one link only: fe80::1 may be the gateway of every network.
    yield from _between_interfaces(networks)
    yield from _twice(
        (("networks", index, "subnets", position, "id"), subnet.id, "subnet")
        for index, item in named
        for position, subnet in enumerate(item.subnets)
    )
    yield from _overlaps(networks)


def _between_interfaces(networks: "list[Network]") -> Iterator[Wrong]:
    owner: dict[str, int] = {}
    for index, network in enumerate(networks):
        for position, address in enumerate(network.interface.addresses):
            host = address.partition("/")[0]
            if ipaddress.ip_address(host) in _LINK_LOCAL:
                continue
            if owner.setdefault(host, index) != index:
                place = ("networks", index, "interface", "addresses", position)
                yield Wrong(place, f"networks[{owner[host]}] has this address too")


def _between_forwardings(forwardings: "list[PortForwarding]") -> Iterator[Wrong]:
    yield from _twice(
        (("port_forwardings", index, "id"), item.id, "port forwarding") for index, item in enumerate(forwardings)
    )
    if sum(len(item.external_ports) for item in forwardings) > _MOST_FORWARDED_PORTS:
        yield Wrong(("port_forwardings",), f"more than {_MOST_FORWARDED_PORTS} ports are forwarded")
        return
    owner: dict[tuple[str, str, int], int] = {}
    for index, item in enumerate(forwardings):
        for port in item.external_ports:
            first = owner.setdefault((item.floating_ip, item.protocol, port), index)
            if first != index:
                yield Wrong(("port_forwardings", index, "external_port"), f"port_forwardings[{first}] has it too")
                break


def _overlaps(networks: "list[Network]") -> Iterator[Wrong]:
    """Sorted by first address, a subnet that overlaps any before it overlaps the one that reaches furthest."""
    spans = []
    for index, network in enumerate(networks):
        if network.network_type != "internal":
            continue
        for position, subnet in enumerate(network.subnets):
            if subnet.cidr == _PREFIX_TO_BE_DELEGATED:
                continue
            cidr = ipaddress.ip_network(subnet.cidr)
            spans.append((cidr.version, int(cidr.network_address), int(cidr.broadcast_address), (index, position)))
    furthest = None
    for span in sorted(spans):
        if furthest is not None and span[0] == furthest[0] and span[1] <= furthest[2]:
            # The later one of the document is named, whichever has the lower address.
            (first, at), (index, position) = sorted((furthest[3], span[3]))
            message = f"overlaps networks[{first}].subnets[{at}]"
            yield Wrong(("networks", index, "subnets", position, "cidr"), message)
        if furthest is None or span[0] != furthest[0] or span[2] > furthest[2]:
            furthest = span


def _twice(items: "Iterable[tuple[Place, Hashable, str]]") -> Iterator[Wrong]:
    seen: set[Hashable] = set()
    for place, key, kind in items:
        if key in seen:
            yield Wrong(place, f"the same {kind} is given twice")
        seen.add(key)
