"""From what Neutron says to what the appliance should run: a pure function, and the digest of its result.

Equal wishes give equal bytes: every list is sorted, nothing depends on the order of Neutron's answers, and fields that
change without meaning (revisions, timestamps) stay out. The digest has a version, so that an upgrade of Astara pushes
again only where the meaning changed; fields that came later stand only where a router needs them. Shape:
docs/contracts.md.
"""

import hashlib
import ipaddress
import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from services.common import marks

from .cloud import Json
from .rate_limits import rate_limits
from .reading import RouterReading

DIGEST_VERSION = "v1"

LATER = {
    "rate_limits": "QoS",
    "conntrack_helpers": "conntrack helpers",
    "ndp_proxies": "NDP proxies",
    "more_default_gateways": "default routes over several gateways",
}
"""Fields that appliances of an earlier release refuse, and what their users then do without."""

_MOST_DHCP_OPTIONS = 64
_NOT_HOSTNAME = re.compile(r"[^a-zA-Z0-9-]+")


def digest(configuration: Json) -> str:
    """`v1:` and the SHA-256 of the canonical JSON of a configuration."""
    canonical = json.dumps(configuration, sort_keys=True, separators=(",", ":")).encode()
    return f"{DIGEST_VERSION}:{hashlib.sha256(canonical).hexdigest()}"


def build(
    reading: RouterReading,
    management: Json,
    interface_names: dict[str, str],
    macs: dict[str, str],
    asn: tuple[int, int],
    unknown: Collection[str] = (),
) -> Json:
    """The configuration of one router.

    `management` is the management port (Neutron's JSON, `cidrs` added: its addresses with prefix length), `macs` maps a
    network to the MAC of the instance's port there, `interface_names` maps MACs to names in the appliance, `asn` is
    the appliance's AS number and its upstream's, `unknown` are those of `LATER` that it refuses. KeyError when a
    network has no interface yet.
    """
    router = reading.router
    gateway = router.get("external_gateway_info") or {}
    networks = [_management(management, interface_names)]
    networks += [
        _network(reading, network_id, "external", interface_names, macs) for network_id in reading.external_network_ids
    ]
    networks += [
        _network(reading, network_id, "internal", interface_names, macs) for network_id in reading.internal_network_ids
    ]
    later = {
        "rate_limits": rate_limits(reading) or None,
        "conntrack_helpers": reading.conntrack_helpers or None,
        "ndp_proxies": reading.ndp_proxies,
        "more_default_gateways": _more_gateways(reading) or None,
    }
    return {
        "hostname": _hostname(str(router.get("name") or ""), str(router["id"])),
        "tenant_id": str(router.get("project_id") or router.get("tenant_id") or ""),
        "admin_state_up": bool(router.get("admin_state_up", True)),
        "asn": asn[0],
        "neighbor_asn": asn[1],
        "default_v4_gateway": _gateway(reading, 4),
        "default_v6_gateway": _gateway(reading, 6),
        "enable_snat": bool(gateway.get("enable_snat", True)),
        "networks": networks,
        "static_routes": sorted(
            (
                {"destination": route["destination"], "nexthop": route["nexthop"]}
                for route in router.get("routes") or ()
            ),
            key=lambda route: (route["destination"], route["nexthop"]),
        ),
        "floating_ips": sorted(
            (
                {
                    "id": fip["id"],
                    "floating_ip": fip["floating_ip_address"],
                    "fixed_ip": fip["fixed_ip_address"],
                    "network_id": fip["floating_network_id"],
                }
                for fip in reading.floating_ips
                if fip.get("fixed_ip_address")
            ),
            key=lambda fip: str(fip["floating_ip"]),
        ),
        "port_forwardings": _port_forwardings(reading),
        "labels": _labels(reading),
        **{name: wanted for name, wanted in later.items() if wanted is not None and name not in unknown},
    }


def _management(port: Json, names: dict[str, str]) -> Json:
    mac = port["mac_address"]
    return {
        "network_id": port["network_id"],
        "name": "management",
        "network_type": "management",
        "mtu": port.get("mtu", 1500),
        "v4_conf_service": "static",
        "v6_conf_service": "static",
        "interface": _interface(names[mac], mac, sorted(port["cidrs"]), port.get("mtu", 1500)),
        "subnets": [],
        "address_allocations": [],
    }


def _network(reading: RouterReading, network_id: str, kind: str, names: dict[str, str], macs: dict[str, str]) -> Json:
    network = reading.networks[network_id]
    own_ports = reading.gateway_ports if kind == "external" else reading.interface_ports
    fixed_ips = [ip for port in own_ports if port["network_id"] == network_id for ip in port["fixed_ips"]]
    subnets = sorted({ip["subnet_id"] for ip in fixed_ips} & set(reading.subnets))
    addresses = sorted(
        f"{ip['ip_address']}/{_prefix_length(reading.subnets[ip['subnet_id']])}"
        for ip in fixed_ips
        if ip["subnet_id"] in reading.subnets
    )
    mtu = int(network.get("mtu") or 1500)
    mac = macs[network_id]
    return {
        "network_id": network_id,
        "name": str(network.get("name") or ""),
        "network_type": kind,
        "mtu": mtu,
        "v4_conf_service": "static",
        "v6_conf_service": "static",
        "interface": _interface(names[mac], mac, addresses, mtu),
        "subnets": [_subnet(reading.subnets[subnet_id], reading.serves_dhcp) for subnet_id in subnets],
        "address_allocations": _allocations(reading, network_id, set(subnets)) if kind == "internal" else [],
    }


def _interface(name: str, mac: str, addresses: list[str], mtu: int) -> Json:
    return {
        "ifname": name,
        "lladdr": mac,
        "addresses": addresses,
        "mtu": mtu,
        "description": "",
        "groups": [],
        "media": None,
        "state": "up",
    }


def _subnet(subnet: Json, serves_dhcp: bool) -> Json:
    return {
        "id": subnet["id"],
        "cidr": subnet["cidr"],
        "gateway_ip": subnet.get("gateway_ip"),
        "dhcp_enabled": serves_dhcp and bool(subnet.get("enable_dhcp")),
        # Their order is the order in which instances ask them: it means something.
        "dns_nameservers": list(subnet.get("dns_nameservers") or ()),
        "host_routes": sorted(
            ({"destination": r["destination"], "nexthop": r["nexthop"]} for r in subnet.get("host_routes") or ()),
            key=lambda route: (route["destination"], route["nexthop"]),
        ),
        "ipv6_address_mode": subnet.get("ipv6_address_mode"),
        "ipv6_ra_mode": subnet.get("ipv6_ra_mode"),
    }


def _allocations(reading: RouterReading, network_id: str, subnet_ids: set[str]) -> list[Json]:
    found = []
    for port in reading.allocations:
        owner = str(port.get("device_owner") or "")
        if (
            port["network_id"] != network_id
            or owner.startswith("network:")
            or marks.PortMark.parse(port["description"])
        ):
            continue
        addresses = {
            ip["ip_address"]: reading.serves_dhcp and bool(reading.subnets[ip["subnet_id"]].get("enable_dhcp"))
            for ip in port["fixed_ips"]
            if ip["subnet_id"] in subnet_ids
        }
        if addresses:
            first = min(addresses, key=lambda text: (":" in text, text))
            found.append(
                {
                    "device_id": str(port.get("device_id") or ""),
                    "hostname": _hostname(str(port.get("dns_name") or ""), "host-" + re.sub(r"[.:]+", "-", first)),
                    "mac_address": port["mac_address"],
                    "ip_addresses": dict(sorted(addresses.items())),
                    "extra_dhcp_opts": _dhcp_options(port),
                }
            )
    return sorted(found, key=lambda entry: (str(entry["mac_address"]), min(entry["ip_addresses"])))


def _dhcp_options(port: Json) -> list[Json]:
    """As Neutron has them, as many as an appliance takes."""
    options = (
        {
            "opt_name": str(option["opt_name"]),
            "opt_value": str(option["opt_value"]),
            "ip_version": int(option.get("ip_version") or 4),
        }
        for option in port.get("extra_dhcp_opts") or ()
    )
    ordered = sorted(options, key=lambda option: (option["ip_version"], option["opt_name"], option["opt_value"]))
    return ordered[:_MOST_DHCP_OPTIONS]


def _port_forwardings(reading: RouterReading) -> list[Json]:
    """Those of TCP and UDP. Neutron takes any protocol, but ports mean nothing to most, and the appliance knows two."""
    found = []
    for floating_ip in reading.floating_ips:
        if floating_ip.get("fixed_ip_address"):
            continue
        for one in floating_ip.get("port_forwardings") or ():
            if one.get("protocol") not in ("tcp", "udp"):
                continue
            (outer, outer_end), (inner, inner_end) = (_port_range(one, side) for side in ("external", "internal"))
            found.append(
                {
                    "id": one["id"],
                    "floating_ip": floating_ip["floating_ip_address"],
                    "protocol": one["protocol"],
                    "external_port": outer,
                    "external_port_end": outer_end,
                    "fixed_ip": one["internal_ip_address"],
                    "internal_port": inner,
                    "internal_port_end": inner_end,
                }
            )
    return sorted(found, key=lambda one: (str(one["floating_ip"]), str(one["protocol"]), int(one["external_port"])))


def _port_range(forwarding: Json, side: str) -> tuple[int, int | None]:
    """First port, and the last when there are several: `external_port`, or `external_port_range` as "80:90"."""
    if (single := forwarding.get(f"{side}_port")) is not None:
        return int(single), None
    first, _, last = str(forwarding[f"{side}_port_range"]).partition(":")
    return int(first), int(last) if last and last != first else None


def _labels(reading: RouterReading) -> list[Json]:
    labels: list[dict[str, Any]] = []
    for label in reading.labels:
        for direction in ("egress", "ingress"):
            prefixes = sorted(
                {
                    rule.get("remote_ip_prefix") or rule.get("source_ip_prefix") or rule.get("destination_ip_prefix")
                    for rule in label["rules"]
                    if rule.get("direction") == direction and not rule.get("excluded")
                }
                - {None}
            )
            if prefixes:
                labels.append({"name": label["id"], "prefixes": prefixes, "direction": direction})
    return sorted(labels, key=lambda label: (label["name"], label["direction"]))


def _gateway(reading: RouterReading, version: int) -> str | None:
    """The gateway of the external subnets on which the router has an address, of this IP version; the main one's."""
    return next(_gateways(reading, version), None)


def _gateways(reading: RouterReading, version: int) -> Iterator[str]:
    for port in reading.gateway_ports:
        for ip in sorted(port["fixed_ips"], key=lambda ip: str(ip["subnet_id"])):
            subnet = reading.subnets.get(ip["subnet_id"])
            if subnet and subnet["ip_version"] == version and subnet.get("gateway_ip"):
                yield str(subnet["gateway_ip"])


def _more_gateways(reading: RouterReading) -> list[str]:
    """Those that shall share the traffic with the main ones (`enable-default-route-ecmp`)."""
    if not reading.more_gateway_ports or not reading.router.get("enable_default_route_ecmp"):
        return []
    found = [dict.fromkeys(_gateways(reading, version)) for version in (4, 6)]
    return [address for several in found for address in list(several)[1:]]


def _prefix_length(subnet: Json) -> int:
    return ipaddress.ip_network(subnet["cidr"]).prefixlen


def _hostname(name: str, otherwise: str) -> str:
    """A DNS label made of a name that a tenant chose, at most 63 characters."""
    cleaned = _NOT_HOSTNAME.sub("-", name).strip("-")[:63].strip("-")
    return cleaned or otherwise
