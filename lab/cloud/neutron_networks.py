"""Networks and subnets, with the pools from which ports get their addresses.

An address is free unless a port holds it, and never the network's own, its broadcast's or the gateway's. Addresses on
SLAAC and stateless subnets are not drawn from a pool: they follow from the MAC address (EUI-64, RFC 4291 appendix A).
"""

import ipaddress
from collections.abc import Iterable
from typing import Any, ClassVar

from .neutron_base import Collection, forbidden
from .store import Row, Table
from .web import CloudError, Context

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AUTO_MODES = ("slaac", "dhcpv6-stateless")


class Pool:
    """The addresses of one subnet that are taken, and where to look for the next free one."""

    def __init__(self, network: Network, ranges: list[dict[str, str]]) -> None:
        self.network = network
        self._taken: set[int] = set()
        self._ranges: list[tuple[int, int]] = []
        self._next = 0
        self.set_ranges(ranges)

    def set_ranges(self, ranges: list[dict[str, str]]) -> None:
        """Allocate from these ranges from now on."""
        self._ranges = [
            (int(ipaddress.ip_address(one["start"])), int(ipaddress.ip_address(one["end"]))) for one in ranges
        ]
        self._next = 0

    def take_next(self) -> str | None:
        """A free address, now taken; None when the ranges are used up."""
        for after in (self._next, 0):
            for start, end in self._ranges:
                number = max(start, after)
                while number <= end:
                    if number not in self._taken:
                        self._next = number + 1
                        self._taken.add(number)
                        return str(self._address(number))
                    number += 1
        return None

    def take(self, address: Address) -> bool:
        """Take this address; False when it is taken already."""
        if int(address) in self._taken:
            return False
        self._taken.add(int(address))
        return True

    def release(self, address: str) -> None:
        """Free an address."""
        self._taken.discard(int(ipaddress.ip_address(address)))

    def eui64(self, mac: str) -> str:
        """The address that a host with this MAC gives itself in the subnet."""
        octets = bytes.fromhex(mac.replace(":", ""))
        suffix = bytes((octets[0] ^ 2, octets[1], octets[2], 0xFF, 0xFE, *octets[3:]))
        return str(self._address(int(self.network.network_address) + int.from_bytes(suffix, "big")))

    def _address(self, number: int) -> Address:
        return ipaddress.IPv4Address(number) if self.network.version == 4 else ipaddress.IPv6Address(number)


class Networks(Collection):
    """`/v2.0/networks`."""

    name, plural, kind = "network", "networks", "Network"
    first_revision = 1
    defaults: ClassVar[dict[str, Any]] = {
        "name": "", "description": "", "admin_state_up": True, "shared": False, "router:external": False,
        "mtu": None, "port_security_enabled": True, "is_default": False, "availability_zone_hints": [],
        "provider:network_type": None, "provider:physical_network": None, "provider:segmentation_id": None,
        "dns_domain": "", "qos_policy_id": None,
    }  # fmt: skip
    admin_only = frozenset({"provider:network_type", "provider:physical_network", "provider:segmentation_id"})
    admin_writes = frozenset({"shared", "router:external", "is_default"})
    extra_filters = frozenset({"ipv4_address_scope", "ipv6_address_scope"})
    not_filters = frozenset({"port_security_enabled", "availability_zone_hints"})
    _segment = 1000
    subnets: "Subnets"
    ports: Any

    def make(self, context: Context, body: Row) -> Row:
        """A new network; a tunnel when the provider's type is not given."""
        del body["dns_domain"], body["qos_policy_id"]
        if body["provider:network_type"] is None:
            body["provider:network_type"] = "vxlan"
            self._segment += 1
            body["provider:segmentation_id"] = self._segment
        if body["mtu"] is None:
            body["mtu"] = 1450 if body["provider:network_type"] == "vxlan" else 1500
        return self.keep(
            context, body,
            status="ACTIVE", subnets=[], availability_zones=[], ipv4_address_scope=None, ipv6_address_scope=None,
        )  # fmt: skip

    def unmake(self, context: Context, row: Row) -> None:
        """Remove a network that no port uses, with its subnets, silently."""
        if used := [port["id"] for port in self.ports.table.find("network_id", row["id"])]:
            raise CloudError(
                409, "NetworkInUse",
                f"Unable to complete operation on network {row['id']}. There are one or more ports still in use on "
                f"the network, id for these ports is: {', '.join(used)}.",
            )  # fmt: skip
        for subnet in self.subnets.table.find("network_id", row["id"]):
            self.subnets.unmake(context, subnet)
        super().unmake(context, row)
        if row["router:external"]:
            self.notifications.cast(
                context, "l3_agent_fanout", "fipnamespace_delete_on_ext_net", {"ext_net_id": row["id"]}
            )

    def shared(self, _context: Context, row: Row) -> bool:
        """External and shared networks are everybody's to see."""
        return bool(row["shared"] or row["router:external"])

    def scope(self, context: Context) -> Iterable[Row]:
        """The project's networks and the public ones."""
        own = self.table.find("project_id", context.project_id)
        return own + [row for row in self.table.find("public", True) if row["project_id"] != context.project_id]

    def view(self, context: Context, row: Row) -> Row:
        """`is_default` is a property of external networks."""
        shown = super().view(context, row)
        if row["router:external"]:
            return shown
        return {key: value for key, value in shown.items() if key != "is_default"}

    def created(self, context: Context, row: Row) -> Row:
        """The answer to a create names `is_default` of every network."""
        return {**super().view(context, row)}

    def deleted(self, _context: Context, row: Row) -> Row:
        """Without any policy, and with columns that the API does not show."""
        whole = row if row["router:external"] else {key: row[key] for key in row if key != "is_default"}
        return {**whole, "standard_attr_id": 1, "qinq": None, "vlan_transparent": None}


def networks_table() -> Table:
    """The table of networks."""
    return Table("project_id", "name", public=lambda row: (bool(row["shared"] or row["router:external"]),))


class Subnets(Collection):
    """`/v2.0/subnets`."""

    name, plural, kind = "subnet", "subnets", "Subnet"
    defaults: ClassVar[dict[str, Any]] = {
        "name": "", "description": "", "cidr": None, "gateway_ip": ..., "allocation_pools": None, "enable_dhcp": True,
        "dns_nameservers": [], "host_routes": [], "ipv6_ra_mode": None, "ipv6_address_mode": None, "service_types": [],
        "subnetpool_id": None, "prefixlen": None,
    }  # fmt: skip
    required = ("network_id", "ip_version")
    fixed = frozenset({"network_id", "cidr", "ip_version", "ipv6_ra_mode", "ipv6_address_mode", "subnetpool_id"})
    extra_filters = frozenset({"router:external", "shared"})
    not_filters = frozenset({"dns_nameservers", "host_routes", "allocation_pools", "service_types", "prefixlen"})
    networks: Networks
    ports: Any

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.pools: dict[str, Pool] = {}

    def make(self, context: Context, body: Row) -> Row:
        """A new subnet of a network that the caller owns."""
        network = self.networks.find(context, body["network_id"])
        if not context.is_admin and network["project_id"] != context.project_id:
            raise forbidden("create_subnet")
        cidr = self._cidr(body)
        for other in self.table.find("network_id", network["id"]):
            if self.pools[other["id"]].network.overlaps(cidr):
                raise invalid(
                    f"Requested subnet with cidr: {cidr} for network: {network['id']} overlaps with another subnet"
                )
        body["cidr"] = str(cidr)
        body["gateway_ip"] = self._gateway(body["gateway_ip"], cidr)
        body["allocation_pools"] = body["allocation_pools"] or _ranges(cidr, body["gateway_ip"])
        del body["prefixlen"]
        body["router:external"] = network["router:external"]
        row = self.keep(context, body | {"project_id": network["project_id"], "tenant_id": network["project_id"]})
        self.pools[row["id"]] = Pool(cidr, row["allocation_pools"])
        self.networks.table.change(network, {"subnets": [*network["subnets"], row["id"]]})
        self.networks.touch(network)
        if is_auto(row):
            self.ports.add_automatic(row)
        return row

    def apply(self, _context: Context, row: Row, changes: Row) -> None:
        """Change a subnet; its pool follows its ranges."""
        gateway = changes.get("gateway_ip")
        if gateway and ipaddress.ip_address(gateway) not in self.pools[row["id"]].network:
            raise invalid(f"Gateway {gateway} is not in the subnet {row['cidr']}")
        self.table.change(row, changes)
        if "allocation_pools" in changes:
            self.pools[row["id"]].set_ranges(row["allocation_pools"])

    def unmake(self, _context: Context, row: Row) -> None:
        """Remove a subnet; 409 while a port has an address that it did not give itself."""
        users = self.ports.table.find("subnet", row["id"])
        if not is_auto(row):
            blocking = users
        else:
            blocking = [port for port in users if port["device_owner"].startswith("network:router")]
        if blocking:
            raise CloudError(
                409, "SubnetInUse",
                f"Unable to complete operation on subnet {row['id']}: One or more ports have an IP allocation from "
                "this subnet.",
            )  # fmt: skip
        for port in users:
            rest = [address for address in port["fixed_ips"] if address["subnet_id"] != row["id"]]
            self.ports.table.change(port, {"fixed_ips": rest})
            self.ports.touch(port)
        network = self.networks.get(row["network_id"])
        self.networks.table.change(network, {"subnets": [one for one in network["subnets"] if one != row["id"]]})
        self.networks.touch(network)
        del self.pools[row["id"]]
        self.table.remove(row["id"])

    def shared(self, _context: Context, row: Row) -> bool:
        """Subnets of shared networks are everybody's to see, those of external ones are not."""
        network = self.networks.table.get(row["network_id"])
        return network is not None and network["shared"]

    def scope(self, context: Context) -> Iterable[Row]:
        """The project's subnets and those of public networks."""
        public = self.networks.table.find("public", True)
        return self.table.find("project_id", context.project_id) + [
            row
            for row in self.table.find("network_id", *(network["id"] for network in public))
            if row["project_id"] != context.project_id
        ]

    def deleted(self, _context: Context, row: Row) -> Row:
        """With columns that the API does not show."""
        return {**row, "standard_attr_id": 1, "shared": False, "segment_id": None}

    def _cidr(self, body: Row) -> Network:
        try:
            cidr = ipaddress.ip_network(body["cidr"] or "", strict=False)
        except ValueError as error:
            raise CloudError(
                400, "HTTPBadRequest", f"Invalid input for cidr. Reason: '{body['cidr']}' is not a valid IP subnet."
            ) from error
        if cidr.version != int(body["ip_version"]):
            raise invalid(f"cidr {cidr} is not of IP version {body['ip_version']}")
        if cidr.version == 4 and cidr.is_loopback and body["enable_dhcp"]:
            raise invalid("Loopback IP subnet is not supported if enable_dhcp is True.")
        if cidr.version == 4 and (body["ipv6_ra_mode"] or body["ipv6_address_mode"]):
            raise invalid("ipv6_ra_mode and ipv6_address_mode are not valid for an IPv4 subnet")
        return cidr

    def _gateway(self, given: Any, cidr: Network) -> str | None:
        if given is ...:
            # IPv6 has no network address to spare: Neutron takes the subnet-router anycast address.
            first = cidr.network_address + (1 if cidr.version == 4 else 0)
            return str(first)
        if given is None:
            return None
        if ipaddress.ip_address(given) not in cidr:
            raise invalid(f"Gateway {given} is not in the subnet {cidr}")
        return str(ipaddress.ip_address(given))


def subnets_table() -> Table:
    """The table of subnets."""
    return Table("project_id", "name", "network_id")


def is_auto(subnet: Row) -> bool:
    """Whether hosts of the subnet make their own addresses."""
    return subnet["ip_version"] == 6 and subnet["ipv6_address_mode"] in AUTO_MODES


def invalid(reason: str) -> CloudError:
    """The error for input that has the right type and makes no sense."""
    return CloudError(400, "BadRequest", f"Invalid input for operation: {reason}.")


def _ranges(cidr: Network, gateway: str | None) -> list[dict[str, str]]:
    first = int(cidr.network_address) + 1
    last = int(cidr.broadcast_address) - (1 if cidr.version == 4 else 0)
    make = ipaddress.IPv4Address if cidr.version == 4 else ipaddress.IPv6Address
    hole = int(ipaddress.ip_address(gateway)) if gateway else -1
    spans = [(first, hole - 1), (hole + 1, last)] if first <= hole <= last else [(first, last)]
    return [{"start": str(make(start)), "end": str(make(end))} for start, end in spans if start <= end]
