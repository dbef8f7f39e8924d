"""Floating IPs: an address of an external network, translated to a port's address by the router between them.

Each has a port without project on the external network, which comes and goes silently. A floating IP whose port is
deleted is disassociated silently too.
"""

from typing import Any, ClassVar

from .neutron_base import Collection
from .neutron_forwardings import PortForwardings
from .neutron_networks import Networks
from .neutron_ports import FLOATING_IP, Ports
from .neutron_routers import Routers
from .store import Row, Table
from .web import NOBODY, CloudError, Context

_DETAILS = ("name", "network_id", "mac_address", "admin_state_up", "status", "device_id", "device_owner")


class FloatingIps(Collection):
    """`/v2.0/floatingips`."""

    name, plural, kind = "floatingip", "floatingips", "FloatingIP"
    defaults: ClassVar[dict[str, Any]] = {
        "port_id": None, "fixed_ip_address": None, "floating_ip_address": None, "subnet_id": None, "description": "",
        "dns_name": None, "dns_domain": None, "qos_policy_id": None,
    }  # fmt: skip
    required = ("floating_network_id",)
    fixed = frozenset({"floating_network_id", "floating_ip_address", "subnet_id"})
    extra_filters = frozenset({"router_id"})
    not_filters = frozenset({"subnet_id"})
    networks: Networks
    ports: Ports
    routers: Routers
    forwardings: PortForwardings

    def make(self, context: Context, body: Row) -> Row:
        """A new floating IP, associated when a port is named."""
        network = self.networks.find(context, body["floating_network_id"])
        if not network["router:external"]:
            raise CloudError(
                400, "BadRequest", f"Bad floatingip request: Network {network['id']} is not a valid external network."
            )
        link = self._link(context, network["id"], body["port_id"], body["fixed_ip_address"], None)
        self.quota(self.name, body["project_id"])
        wanted = {
            key: body[source]
            for key, source in (("subnet_id", "subnet_id"), ("ip_address", "floating_ip_address"))
            if body[source]
        }
        floating_id = self.options.new_id()
        port = self.ports.build(
            NOBODY,
            {
                "network_id": network["id"], "project_id": "", "device_id": floating_id, "device_owner": FLOATING_IP,
                "port_security_enabled": False, "fixed_ips": [wanted] if wanted else None,
            },
        )  # fmt: skip
        address = next(one["ip_address"] for one in port["fixed_ips"] if ":" not in one["ip_address"])
        return self.keep(
            context,
            {"project_id": body["project_id"], "tenant_id": body["project_id"], "description": body["description"]},
            id=floating_id, floating_ip_address=address, floating_network_id=network["id"], status="DOWN", **link,
        )  # fmt: skip

    def apply(self, context: Context, row: Row, changes: Row) -> None:
        """Associate or disassociate; a change that names no port keeps the association, and so do forwardings."""
        if self.forwardings.of(row["id"]):
            if changes.get("port_id"):
                raise in_use(row["id"])
        elif "port_id" in changes:
            fixed = changes.get("fixed_ip_address")
            changes = changes | self._link(context, row["floating_network_id"], changes["port_id"], fixed, row["id"])
        self.table.change(row, changes)

    def unmake(self, context: Context, row: Row) -> None:
        """Remove a floating IP with its port."""
        if self.forwardings.of(row["id"]):
            raise in_use(row["id"])
        row |= {"port_details": self._details(row["port_id"]), "port_forwardings": []}
        super().unmake(context, row)
        for port in self.ports.table.find("device_id", row["id"]):
            self.ports.discard(port)

    def port_gone(self, port_id: str) -> None:
        """Disassociate what was associated with a port that is going away, and forward nothing to it."""
        self.forwardings.port_gone(port_id)
        for row in self.table.find("port_id", port_id):
            self.table.change(row, {"port_id": None, "fixed_ip_address": None, "router_id": None, "status": "DOWN"})
            self.touch(row)

    def view(self, _context: Context, row: Row) -> Row:
        """The floating IP with a summary of its port, and what it forwards."""
        if "port_details" in row:
            return row
        shown = self.forwardings.shown(row["id"])
        return {**row, "port_details": self._details(row["port_id"]), "port_forwardings": shown}

    def _details(self, port_id: str | None) -> Row | None:
        port = self.ports.table.get(port_id)
        return {key: port[key] for key in _DETAILS} if port else None

    def _link(
        self, context: Context, network_id: str, port_id: str | None, fixed: str | None, floating_id: str | None
    ) -> Row:
        """The attributes of an association; 404 without a router on the way, 409 when the address is taken."""
        if not port_id:
            return {"port_id": None, "fixed_ip_address": None, "router_id": None}
        port = self.ports.find(context, port_id)
        addresses = [one["ip_address"] for one in port["fixed_ips"] if ":" not in one["ip_address"]]
        if not addresses or (fixed and fixed not in addresses):
            raise CloudError(
                400,
                "BadRequest",
                f"Bad floatingip request: Port {port_id} does not have fixed ip {fixed or 'address'}.",
            )
        address = fixed or addresses[0]
        for other in self.table.find("port_id", port_id):
            if other["fixed_ip_address"] == address and other["id"] != floating_id:
                raise CloudError(
                    409, "FloatingIPPortAlreadyAssociated",
                    f"Cannot associate floating IP {other['floating_ip_address']} with port {port_id} using fixed IP "
                    f"{address}, as that fixed IP already has a floating IP on external network {network_id}.",
                )  # fmt: skip
        router = self.routers.serving(port, address, network_id)
        if router is None:
            raise CloudError(
                404, "ExternalGatewayForFloatingIPNotFound",
                f"External network {network_id} is not reachable from subnet of port {port_id}. Therefore, cannot "
                "associate a Floating IP with it.",
            )  # fmt: skip
        return {"port_id": port_id, "fixed_ip_address": address, "router_id": router["id"]}


def in_use(floatingip_id: str) -> CloudError:
    """The error of a call that would take a floating IP away from its port forwardings."""
    return CloudError(
        409, "FipInUseByPortForwarding", f"Floating IP {floatingip_id} in use by Port Forwarding resources."
    )


def floatingips_table() -> Table:
    """The table of floating IPs."""
    return Table("project_id", "port_id", "router_id", "floating_ip_address", "floating_network_id")
