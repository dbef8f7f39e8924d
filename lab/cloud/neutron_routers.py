"""Routers, their gateways, interfaces and routes.

A router's revision grows with its own attributes, its interface ports, gateway and routes; floating IPs and subnets
leave it alone. Interface and gateway ports come and go silently; a gateway's port belongs to no project, so members
do not see it.
"""

import ipaddress
from typing import Any, ClassVar

from .neutron_base import Collection, forbidden
from .neutron_networks import Networks, Subnets
from .neutron_ports import ROUTER_GATEWAY, ROUTER_INTERFACE, Ports
from .store import Row, Table
from .web import Call, CloudError, Context, Reply, Routes


class Routers(Collection):
    """`/v2.0/routers`."""

    name, plural, kind = "router", "routers", "Router"
    first_revision = 1
    defaults: ClassVar[dict[str, Any]] = {
        "name": "", "description": "", "admin_state_up": True, "external_gateway_info": None, "routes": [],
        "flavor_id": None, "availability_zone_hints": [], "distributed": False, "ha": False,
    }  # fmt: skip
    admin_only = frozenset({"distributed", "ha"})
    fixed = frozenset({"flavor_id", "availability_zone_hints"})
    not_filters = frozenset({"status", "flavor_id", "external_gateway_info", "routes", "ha", "distributed"})
    networks: Networks
    subnets: Subnets
    ports: Ports
    floatingips: Any
    flavors: Collection

    def routes(self, routes: Routes) -> None:
        """The five calls and the verbs on one router."""
        super().routes(routes)
        for verb, handler in (
            ("add_router_interface", self.add_interface),
            ("remove_router_interface", self.remove_interface),
            ("add_extraroutes", self.add_routes),
            ("remove_extraroutes", self.remove_routes),
        ):
            routes.add("PUT", f"/v2.0/routers/{{id}}/{verb}", handler)

    def make(self, context: Context, body: Row) -> Row:
        """A new router, with its gateway if it is to have one."""
        if body["flavor_id"] is not None:
            self.flavors.get(body["flavor_id"])
        gateway = body["external_gateway_info"]
        body["external_gateway_info"] = None
        row = self.keep(context, body, status="ACTIVE", availability_zones=[])
        try:
            self._set_gateway(context, row, gateway)
        except CloudError:
            self.table.remove(row["id"])
            raise
        if gateway:
            self.touch(row)
        return row

    def apply(self, context: Context, row: Row, changes: Row) -> None:
        """Change a router; the gateway and the routes are exchanged as a whole."""
        changes = dict(changes)
        if "routes" in changes:
            changes["routes"] = self._checked(row, changes["routes"] or [])
        if "external_gateway_info" in changes:
            self._set_gateway(context, row, changes.pop("external_gateway_info"))
        self.table.change(row, changes)

    def unmake(self, context: Context, row: Row) -> None:
        """Remove a router that has no interfaces, and tell the agents."""
        if ports := self.interfaces(row["id"]):
            raise CloudError(
                409, "RouterInUse",
                f"Router {row['id']} has ports still attached: {', '.join(port['id'] for port in ports)}",
            )  # fmt: skip
        shown = row["external_gateway_info"]
        self._set_gateway(context, row, None)
        row["external_gateway_info"] = shown
        self.table.remove(row["id"])
        self.notifications.cast(context, "l3_agent_fanout", "router_deleted", {"router_id": row["id"]})

    def interfaces(self, router_id: str) -> list[Row]:
        """The ports of a router's internal interfaces."""
        return [port for port in self.ports.table.find("device_id", router_id) if _owner(port) == ROUTER_INTERFACE]

    def serving(self, port: Row, address: str, network_id: str) -> Row | None:
        """The router between a port's address and an external network, or None."""
        for one in port["fixed_ips"]:
            if one["ip_address"] != address:
                continue
            for candidate in self.ports.table.find("subnet", one["subnet_id"]):
                if _owner(candidate) != ROUTER_INTERFACE:
                    continue
                router = self.table.get(candidate["device_id"])
                gateway = router and router["external_gateway_info"]
                if gateway and gateway["network_id"] == network_id:
                    return router
        return None

    def add_interface(self, call: Call) -> Reply:
        """`PUT …/add_router_interface` by subnet or port."""
        router = self.writable(call.context, call.variables[0])
        body = call.json()
        if "port_id" in body:
            port, subnet_ids = self._plug(call.context, router, body["port_id"])
        elif "subnet_id" in body:
            port, subnet_ids = self._serve(call.context, router, body["subnet_id"])
        else:
            raise CloudError(400, "BadRequest", "Bad router request: Either subnet_id or port_id must be specified.")
        self.touch(router)
        return self._interface(call.context, "create", router, port, subnet_ids)

    def remove_interface(self, call: Call) -> Reply:
        """`PUT …/remove_router_interface` by subnet or port."""
        router = self.writable(call.context, call.variables[0])
        body = call.json()
        port = self._attached(router, body)
        subnet_ids = [one["subnet_id"] for one in port["fixed_ips"]]
        self._check_unused(router, port)
        if "port_id" not in body and len(subnet_ids) > 1:
            subnet_ids = [body["subnet_id"]]
            gone = [one for one in port["fixed_ips"] if one["subnet_id"] in subnet_ids]
            rest = [one for one in port["fixed_ips"] if one not in gone]
            self.ports.table.change(port, {"fixed_ips": rest})
            self.subnets.pools[body["subnet_id"]].release(gone[0]["ip_address"])
        else:
            self.ports.discard(port)
        self.touch(router)
        return self._interface(call.context, "delete", router, port, subnet_ids)

    def add_routes(self, call: Call) -> Reply:
        """`PUT …/add_extraroutes`, of which Neutron tells nobody."""
        router = self.writable(call.context, call.variables[0])
        fresh = [one for one in call.json()["router"]["routes"] if one not in router["routes"]]
        self.table.change(router, {"routes": self._checked(router, [*router["routes"], *fresh])})
        self.touch(router)
        return Reply({"router": self.view(call.context, router)})

    def remove_routes(self, call: Call) -> Reply:
        """`PUT …/remove_extraroutes`, of which Neutron tells nobody."""
        router = self.writable(call.context, call.variables[0])
        gone = call.json()["router"]["routes"]
        self.table.change(router, {"routes": [one for one in router["routes"] if one not in gone]})
        self.touch(router)
        return Reply({"router": self.view(call.context, router)})

    def _interface(self, context: Context, verb: str, router: Row, port: Row, subnet_ids: list[str]) -> Reply:
        answer = {
            "id": router["id"], "project_id": router["project_id"], "port_id": port["id"],
            "network_id": port["network_id"], "subnet_id": subnet_ids[0], "subnet_ids": subnet_ids,
        }  # fmt: skip
        self.notify(context, f"router.interface.{verb}", {"router_interface": answer})
        return Reply(answer)

    def _serve(self, context: Context, router: Row, subnet_id: str) -> tuple[Row, list[str]]:
        """An interface with the gateway address of a subnet."""
        subnet = self.subnets.find(context, subnet_id)
        if not context.is_admin and subnet["project_id"] != context.project_id:
            raise bad_request(
                f"Cannot add interface to router because subnet {subnet_id} is not owned by project making the request."
            )
        if not subnet["gateway_ip"]:
            raise bad_request("Subnet for router interface must have a gateway IP.")
        self._check_overlap(router, subnet)
        if subnet["ip_version"] == 6:
            for port in self.interfaces(router["id"]):
                if port["network_id"] == subnet["network_id"] and ":" in port["fixed_ips"][0]["ip_address"]:
                    address = self.ports.draw(subnet, subnet["gateway_ip"])
                    self.ports.table.change(port, {"fixed_ips": [*port["fixed_ips"], address]})
                    return port, [subnet_id]
        port = self.ports.build(
            context,
            {
                "network_id": subnet["network_id"], "project_id": router["project_id"], "device_id": router["id"],
                "device_owner": ROUTER_INTERFACE, "port_security_enabled": False,
                "fixed_ips": [{"subnet_id": subnet_id, "ip_address": subnet["gateway_ip"]}],
            },
        )  # fmt: skip
        return port, [subnet_id]

    def _plug(self, context: Context, router: Row, port_id: str) -> tuple[Row, list[str]]:
        """An existing port as an interface."""
        port = self.ports.find(context, port_id)
        if port["device_id"]:
            raise CloudError(
                409, "PortInUse",
                f"Unable to complete operation on port {port_id} for network {port['network_id']}. Port already has "
                f"an attached device {port['device_id']}.",
            )  # fmt: skip
        if not port["fixed_ips"]:
            raise bad_request("Router port must have at least one fixed IP")
        if not context.is_admin and port["project_id"] != context.project_id:
            raise forbidden("add_router_interface")
        for one in port["fixed_ips"]:
            self._check_overlap(router, self.subnets.get(one["subnet_id"]))
        changes: Row = {"device_id": router["id"], "device_owner": ROUTER_INTERFACE}
        self.ports.table.change(port, changes)
        self.ports.touch(port)
        return port, [one["subnet_id"] for one in port["fixed_ips"]]

    def _attached(self, router: Row, body: Row) -> Row:
        for port in self.interfaces(router["id"]):
            if "port_id" in body:
                if port["id"] == body["port_id"]:
                    return port
            elif any(one["subnet_id"] == body.get("subnet_id") for one in port["fixed_ips"]):
                return port
        if "port_id" in body:
            raise CloudError(
                404, "RouterInterfaceNotFound",
                f"Router {router['id']} does not have an interface with id {body['port_id']}",
            )  # fmt: skip
        raise CloudError(
            404, "RouterInterfaceNotFoundForSubnet",
            f"Router {router['id']} has no interface on subnet {body.get('subnet_id')}",
        )  # fmt: skip

    def _check_overlap(self, router: Row, subnet: Row) -> None:
        network = self.subnets.pools[subnet["id"]].network
        for port in self.ports.table.find("device_id", router["id"]):
            for one in port["fixed_ips"]:
                if one["subnet_id"] == subnet["id"]:
                    raise bad_request(f"Router already has a port on subnet {subnet['id']}")
                if self.subnets.pools[one["subnet_id"]].network.overlaps(network):
                    raise bad_request(
                        f"Cidr {subnet['cidr']} of subnet {subnet['id']} overlaps with cidr of subnet "
                        f"{one['subnet_id']}"
                    )

    def _check_unused(self, router: Row, port: Row) -> None:
        networks = [self.subnets.pools[one["subnet_id"]].network for one in port["fixed_ips"]]
        subnet_id = port["fixed_ips"][0]["subnet_id"]
        for floating in self.floatingips.table.find("router_id", router["id"]):
            forwardings = self.floatingips.forwardings.of(floating["id"])
            inside = [floating["fixed_ip_address"], *(one["internal_ip_address"] for one in forwardings)]
            if any(fixed and ipaddress.ip_address(fixed) in network for fixed in inside for network in networks):
                raise CloudError(
                    409, "RouterInterfaceInUseByFloatingIP",
                    f"Router interface for subnet {subnet_id} on router {router['id']} cannot be deleted, as it is "
                    "required by one or more floating IPs.",
                )  # fmt: skip
        for route in router["routes"]:
            if any(ipaddress.ip_address(route["nexthop"]) in network for network in networks):
                raise CloudError(
                    409, "RouterInterfaceInUseByRoute",
                    f"Router interface for subnet {subnet_id} on router {router['id']} cannot be deleted, as it is "
                    "required by one or more routes.",
                )  # fmt: skip

    def _checked(self, router: Row, routes: list[dict[str, str]]) -> list[dict[str, str]]:
        ports = self.ports.table.find("device_id", router["id"])
        networks = [self.subnets.pools[one["subnet_id"]].network for port in ports for one in port["fixed_ips"]]
        own = {one["ip_address"] for port in ports for one in port["fixed_ips"]}
        for route in routes:
            hop = ipaddress.ip_address(route["nexthop"])
            if not any(hop in network for network in networks):
                raise _bad_routes(routes, "the nexthop is not connected with router")
            if str(hop) in own:
                raise _bad_routes(routes, "the nexthop is used by router")
        return routes

    def _set_gateway(self, context: Context, row: Row, info: Row | None) -> None:
        """Exchange the gateway: its port is kept when network and addresses stay."""
        before = row["external_gateway_info"]
        if not info:
            if before:
                self._clear_gateway(row)
            return
        network = self.networks.find(context, info["network_id"])
        if not network["router:external"]:
            raise bad_request(f"Network {network['id']} is not an external network")
        snat = info.get("enable_snat", before["enable_snat"] if before else True)
        if before and before["network_id"] == network["id"] and not info.get("external_fixed_ips"):
            self.table.change(row, {"external_gateway_info": {**before, "enable_snat": snat}})
            return
        if before:
            self._clear_gateway(row)
        port = self.ports.build(
            context,
            {
                "network_id": network["id"], "project_id": "", "device_id": row["id"], "device_owner": ROUTER_GATEWAY,
                "port_security_enabled": False, "fixed_ips": info.get("external_fixed_ips") or None,
            },
        )  # fmt: skip
        gateway = {"network_id": network["id"], "external_fixed_ips": port["fixed_ips"], "enable_snat": snat}
        self.table.change(row, {"external_gateway_info": gateway})

    def _clear_gateway(self, row: Row) -> None:
        if self.floatingips.table.find("router_id", row["id"]):
            raise CloudError(
                409, "RouterExternalGatewayInUseByFloatingIp",
                f"Gateway cannot be updated for router {row['id']}, since a gateway to external network "
                f"{row['external_gateway_info']['network_id']} is required by one or more floating IPs.",
            )  # fmt: skip
        for port in self.ports.table.find("device_id", row["id"]):
            if _owner(port) == ROUTER_GATEWAY:
                self.ports.discard(port)
        self.table.change(row, {"external_gateway_info": None})
        self.touch(row)


def routers_table() -> Table:
    """The table of routers."""
    return Table("project_id", "name")


def bad_request(reason: str) -> CloudError:
    """The error for a wish that a router cannot fulfil."""
    return CloudError(400, "BadRequest", f"Bad router request: {reason}")


def _owner(port: Row) -> str:
    return str(port["device_owner"])


def _bad_routes(routes: list[dict[str, str]], why: str) -> CloudError:
    return CloudError(400, "InvalidRoutes", f"Invalid format for routes: {routes}, {why}")
