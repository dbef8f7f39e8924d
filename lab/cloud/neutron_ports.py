"""Ports: unique MAC addresses on a network, addresses from the subnets' pools, bindings.

A MAC address belongs to one port of a network: whoever asks second gets 409 MacAddressInUse, which is what makes a
derived address a compare-and-set. Ports that Neutron makes for itself (router interfaces, gateways, floating IPs) are
made by `build`, silently.
"""

import ipaddress
import random
from collections.abc import Iterable
from typing import Any, ClassVar

from .neutron_base import Collection, forbidden
from .neutron_groups import SecurityGroups
from .neutron_networks import Networks, Subnets, is_auto
from .store import Row, Table
from .web import CloudError, Context

BOUND = {
    "connectivity": "l2", "port_filter": True, "ovs_hybrid_plug": False, "ovs_create_tap": True,
    "datapath_type": "system", "bridge_name": "br-int", "bound_drivers": {"0": "openvswitch"},
}  # fmt: skip
ROUTER_INTERFACE = "network:router_interface"
ROUTER_GATEWAY = "network:router_gateway"
FLOATING_IP = "network:floatingip"


class Ports(Collection):
    """`/v2.0/ports`."""

    name, plural, kind = "port", "ports", "Port"
    first_revision = 1
    defaults: ClassVar[dict[str, Any]] = {
        "name": "", "mac_address": None, "admin_state_up": True, "device_id": "", "device_owner": "",
        "fixed_ips": None, "port_security_enabled": None, "security_groups": None, "binding:vnic_type": "normal",
        "binding:profile": {}, "binding:host_id": "", "allowed_address_pairs": [], "extra_dhcp_opts": [],
        "description": "", "dns_name": None, "qos_policy_id": None, "propagate_uplink_status": None,
    }  # fmt: skip
    required = ("network_id",)
    fixed = frozenset({"network_id"})
    admin_only = frozenset({"binding:host_id", "binding:profile", "binding:vif_type", "binding:vif_details"})
    not_filters = frozenset(
        {"port_security_enabled", "allowed_address_pairs", "extra_dhcp_opts", "binding:profile", "dns_name"}
    )
    networks: Networks
    subnets: Subnets
    groups: SecurityGroups
    floatingips: Any

    def __init__(self, *args: Any, dice: random.Random) -> None:
        super().__init__(*args)
        self.qos_policies: dict[str, Row] = {}
        self._dice = dice

    def make(self, context: Context, body: Row) -> Row:
        """A new port as a caller of the API may have it."""
        network = self.networks.find(context, body["network_id"])
        if not context.is_admin and network["project_id"] != context.project_id:
            self._check_foreign_network(body)
        return self.build(context, body)

    def build(self, context: Context, body: Row) -> Row:
        """A new port, whoever asks; `body` has all attributes or is completed from the defaults."""
        body = {**self.defaults, "project_id": context.project_id, **body}
        network = self.networks.get(body["network_id"])
        self.quota(self.name, body["project_id"])
        mac = self._mac(network["id"], body["mac_address"])
        if body["port_security_enabled"] is None:
            body["port_security_enabled"] = network["port_security_enabled"]
        if body["security_groups"] is None:
            body["security_groups"] = self._default_groups(body)
        fixed_ips = self._allocate(network, body["fixed_ips"], mac, body["device_owner"])
        host = body["binding:host_id"] or ""
        policy = body["qos_policy_id"]
        if policy is not None and policy not in self.qos_policies:
            raise CloudError(404, "QosPolicyNotFound", f"QoS policy {policy} could not be found.")
        unshown = {"dns_name", "propagate_uplink_status"} | (set() if policy else {"qos_policy_id"})
        body = {key: body[key] for key in body if key not in unshown}
        body |= {"mac_address": mac, "fixed_ips": fixed_ips, "status": "DOWN", "tenant_id": body["project_id"]}
        body |= _binding(host)
        if self.options.ip_allocation:
            body["ip_allocation"] = "immediate" if fixed_ips else "none"
        return self.keep(context, body)

    def apply(self, _context: Context, row: Row, changes: Row) -> None:
        """Change a port: its addresses are exchanged as a whole, all or nothing."""
        changes = dict(changes)
        if "mac_address" in changes and changes["mac_address"] != row["mac_address"]:
            if row["binding:host_id"]:
                raise CloudError(409, "PortBound", f"Unable to complete operation on port {row['id']}, port is bound")
            changes["mac_address"] = self._mac(row["network_id"], changes["mac_address"])
        if changes.get("fixed_ips") is not None:
            changes["fixed_ips"] = self._exchange(row, changes["fixed_ips"])
        if "mac_address" in changes:
            addresses = row["fixed_ips"] if changes.get("fixed_ips") is None else changes["fixed_ips"]
            changes["fixed_ips"] = self._follow(addresses, changes["mac_address"])
        if "binding:host_id" in changes:
            host = changes["binding:host_id"] or ""
            changes |= _binding(host)
            if host != row["binding:host_id"]:
                self.touch(row)
        if changes.get("port_security_enabled") is False and (
            changes.get("security_groups", row["security_groups"])
            or changes.get("allowed_address_pairs", row["allowed_address_pairs"])
        ):
            raise CloudError(
                409, "PortSecurityPortHasSecurityGroup",
                "Port has security group associated. Cannot disable port security or IP address until security "
                "group is removed.",
            )  # fmt: skip
        if self.options.ip_allocation and "fixed_ips" in changes:
            changes["ip_allocation"] = "immediate" if changes["fixed_ips"] else "none"
        self.table.change(row, changes)
        self.floatingips.forwardings.port_changed(row)

    def settle(self, _context: Context, row: Row) -> None:
        """A bound port turns ACTIVE, an unbound one DOWN; Neutron says neither."""
        status = "ACTIVE" if row["binding:host_id"] else "DOWN"
        if row["status"] != status and not row["device_owner"].startswith("network:"):
            self.table.change(row, {"status": status})
            self.touch(row)

    def unmake(self, _context: Context, row: Row) -> None:
        """Remove a port; those of routers and floating IPs go with what they belong to."""
        if row["device_owner"] in (ROUTER_INTERFACE, ROUTER_GATEWAY, FLOATING_IP):
            raise CloudError(
                409, "ServicePortInUse",
                f"Port {row['id']} cannot be deleted directly via the port API: has device owner "
                f"{row['device_owner']}.",
            )  # fmt: skip
        self.discard(row)

    def discard(self, row: Row) -> None:
        """Remove any port, free its addresses and its floating IPs."""
        self.floatingips.port_gone(row["id"])
        for address in row["fixed_ips"]:
            self.subnets.pools[address["subnet_id"]].release(address["ip_address"])
        self.table.remove(row["id"])

    def shared(self, context: Context, row: Row) -> bool:
        """The owner of a network sees every port on it."""
        network = self.networks.table.get(row["network_id"])
        return network is not None and network["project_id"] == context.project_id

    def scope(self, context: Context) -> Iterable[Row]:
        """The project's ports and those on its networks."""
        own = self.networks.table.find("project_id", context.project_id)
        return self.table.find("project_id", context.project_id) + [
            row
            for row in self.table.find("network_id", *(network["id"] for network in own))
            if row["project_id"] != context.project_id
        ]

    def deleted(self, _context: Context, row: Row) -> Row:
        """Without any policy, and with a column that the API does not show."""
        return {**row, "standard_attr_id": 1}

    def add_automatic(self, subnet: Row) -> None:
        """Ports of a network give themselves addresses when a SLAAC subnet comes to it."""
        for port in self.table.find("network_id", subnet["network_id"]):
            if port["device_owner"].startswith("network:"):
                continue
            self.table.change(port, {"fixed_ips": [*port["fixed_ips"], self._automatic(subnet, port["mac_address"])]})
            self.touch(port)

    def draw(self, subnet: Row, address: str | None) -> dict[str, str]:
        """Take an address of a subnet, a certain one or the next; CloudError when there is none."""
        pool = self.subnets.pools[subnet["id"]]
        if address is None:
            found = pool.take_next()
            if found is None:
                raise CloudError(
                    409, "IpAddressGenerationFailure",
                    f"No more IP addresses available on network {subnet['network_id']}.",
                )  # fmt: skip
            return {"subnet_id": subnet["id"], "ip_address": found}
        wanted = ipaddress.ip_address(address)
        if wanted not in pool.network:
            raise CloudError(
                400, "InvalidIpForSubnet", f"IP address {address} is not a valid IP for the specified subnet."
            )
        if not pool.take(wanted):
            raise CloudError(
                409, "IpAddressAlreadyAllocated", f"IP address {address} already allocated in subnet {subnet['id']}"
            )
        return {"subnet_id": subnet["id"], "ip_address": str(wanted)}

    def _allocate(
        self, network: Row, requested: list[dict[str, str]] | None, mac: str, owner: str
    ) -> list[dict[str, str]]:
        subnets = self.subnets.table.find("network_id", network["id"])
        taken: list[dict[str, str]] = []
        try:
            if requested is None:
                taken.extend(self._one_each(subnets))
            taken.extend(self._requested(network, subnets, one, mac) for one in requested or ())
        except CloudError:
            self._release(taken)
            raise
        if not owner.startswith("network:router_interface"):
            have = {address["subnet_id"] for address in taken}
            taken.extend(self._automatic(one, mac) for one in subnets if is_auto(one) and one["id"] not in have)
        return taken

    def _one_each(self, subnets: list[Row]) -> Iterable[dict[str, str]]:
        """One IPv4 and one IPv6 address from the first subnet of its version that has one left."""
        for version in (4, 6):
            candidates = [one for one in subnets if one["ip_version"] == version and not is_auto(one)]
            for number, subnet in enumerate(candidates, start=1):
                try:
                    yield self.draw(subnet, None)
                except CloudError:
                    if number == len(candidates):
                        raise
                else:
                    break

    def _requested(self, network: Row, subnets: list[Row], one: dict[str, str], mac: str) -> dict[str, str]:
        if subnet_id := one.get("subnet_id"):
            subnet = self.subnets.get(subnet_id)
            if subnet["network_id"] != network["id"]:
                raise CloudError(
                    400, "InvalidInput",
                    f"Invalid input for operation: Failed to create port on network {network['id']}, because "
                    f"fixed_ips included invalid subnet {subnet_id}.",
                )  # fmt: skip
            if is_auto(subnet) and "ip_address" not in one:
                return self._automatic(subnet, mac)
            return self.draw(subnet, one.get("ip_address"))
        address = ipaddress.ip_address(one["ip_address"])
        for subnet in subnets:
            if address in self.subnets.pools[subnet["id"]].network:
                return self.draw(subnet, str(address))
        raise CloudError(
            400, "InvalidIpForNetwork",
            f"IP address {address} is not a valid IP for any of the subnets on the specified network.",
        )  # fmt: skip

    def _exchange(self, row: Row, wanted: list[dict[str, str]]) -> list[dict[str, str]]:
        """Addresses that a port gives itself stay whatever is asked for."""
        before = row["fixed_ips"]
        kept = [have for have in before if self._is_auto(have) or any(_same(have, one) for one in wanted)]
        fresh = [one for one in wanted if not any(_same(have, one) for have in before)]
        network = self.networks.get(row["network_id"])
        subnets = self.subnets.table.find("network_id", network["id"])
        taken: list[dict[str, str]] = []
        try:
            taken.extend(self._requested(network, subnets, one, row["mac_address"]) for one in fresh)
        except CloudError:
            self._release(taken)
            raise
        self._release([have for have in before if have not in kept])
        return kept + taken

    def _is_auto(self, address: dict[str, str]) -> bool:
        return is_auto(self.subnets.get(address["subnet_id"]))

    def _follow(self, addresses: list[dict[str, str]], mac: str) -> list[dict[str, str]]:
        """The same addresses after a change of the MAC address."""
        self._release([one for one in addresses if self._is_auto(one)])
        return [
            self._automatic(self.subnets.get(one["subnet_id"]), mac) if self._is_auto(one) else one for one in addresses
        ]

    def _release(self, addresses: list[dict[str, str]]) -> None:
        for address in addresses:
            self.subnets.pools[address["subnet_id"]].release(address["ip_address"])

    def _automatic(self, subnet: Row, mac: str) -> dict[str, str]:
        pool = self.subnets.pools[subnet["id"]]
        address = pool.eui64(mac)
        pool.take(ipaddress.ip_address(address))
        return {"subnet_id": subnet["id"], "ip_address": address}

    def _default_groups(self, body: Row) -> list[str]:
        if not body["port_security_enabled"] or body["device_owner"].startswith("network:"):
            return []
        return [self.groups.default(body["project_id"])["id"]]

    def _mac(self, network_id: str, wanted: str | None) -> str:
        if wanted is None:
            while True:
                mac = "fa:16:3e:" + ":".join(f"{self._dice.randrange(256):02x}" for _ in range(3))
                if not self.table.count("mac_on_network", (network_id, mac)):
                    return mac
        mac = wanted.lower()
        if self.table.count("mac_on_network", (network_id, mac)):
            raise CloudError(
                409, "MacAddressInUse",
                f"Unable to complete operation for network {network_id}. The mac address {mac} is in use.",
            )  # fmt: skip
        return mac

    def _check_foreign_network(self, body: Row) -> None:
        if body["mac_address"] is not None:
            raise forbidden("create_port:mac_address")
        if any("ip_address" in one for one in body["fixed_ips"] or ()):
            raise forbidden("create_port:fixed_ips:ip_address")
        if body["device_owner"].startswith("network:"):
            raise forbidden("create_port:device_owner")


def ports_table() -> Table:
    """The table of ports."""
    return Table(
        "project_id", "network_id", "device_id", "mac_address", "device_owner", "name", "description",
        mac_on_network=lambda row: ((row["network_id"], row["mac_address"]),),
        address=lambda row: tuple(one["ip_address"] for one in row["fixed_ips"]),
        subnet=lambda row: tuple(dict.fromkeys(one["subnet_id"] for one in row["fixed_ips"])),
    )  # fmt: skip


def _same(have: dict[str, str], wanted: dict[str, str]) -> bool:
    return all(have.get(key) == value for key, value in wanted.items())


def _binding(host: str) -> Row:
    return {
        "binding:host_id": host,
        "binding:vif_type": "ovs" if host else "unbound",
        "binding:vif_details": dict(BOUND) if host else {},
    }
