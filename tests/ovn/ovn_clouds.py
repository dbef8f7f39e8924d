"""What a cloud with routers of OVN's and of Astara's side by side is made of, in Neutron's words."""

import itertools
from typing import Any

from neutron_on_ovn import PHYSICAL_NETWORK, Neutron
from ovn_central import OvnCentral

ROUTING = ("Logical_Router", "Logical_Router_Port", "Logical_Router_Static_Route", "NAT", "Load_Balancer")
"""Tables of the northbound database that hold what forwards between networks."""

FLAVOR = "astara"
_DRIVER = "astara_neutron.provider.AstaraRouterProvider"


class Site:
    """Makes what tests need; networks of tenants get addresses of their own.

    `ours` are the ids of Astara's routers and of all their ports and floating IPs, former ones included.
    """

    def __init__(self, neutron: Neutron, ovn: OvnCentral) -> None:
        self.neutron = neutron
        self.ovn = ovn
        self.ours: set[str] = set()
        self._numbers = itertools.count(1)
        profile = neutron.post("/service_profiles", {"service_profile": {"driver": _DRIVER}})["service_profile"]
        self.flavor = neutron.create("flavor", name=FLAVOR, service_type="L3_ROUTER_NAT")["id"]
        neutron.post(f"/flavors/{self.flavor}/service_profiles", {"service_profile": {"id": profile["id"]}})
        provider = {"provider:network_type": "flat", "provider:physical_network": PHYSICAL_NETWORK}
        self.external = neutron.create("network", name="external", **{"router:external": True}, **provider)["id"]
        neutron.create("subnet", network_id=self.external, cidr="203.0.113.0/24", ip_version=4, enable_dhcp=False)

    def network(self, **subnet: Any) -> tuple[str, str]:
        """A tenant's network and its subnet."""
        network = self.neutron.create("network", name="tenant")["id"]
        addresses = {"cidr": f"10.0.{next(self._numbers)}.0/24", "ip_version": 4} | subnet
        return network, self.neutron.create("subnet", network_id=network, **addresses)["id"]

    def router(self, *, ours: bool, **attributes: Any) -> str:
        """A router, with a gateway unless it is told otherwise."""
        flavor = {"flavor_id": self.flavor} if ours else {}
        gateway = {"external_gateway_info": {"network_id": self.external}}
        router = str(self.neutron.create("router", **flavor, **(gateway | attributes))["id"])
        if ours:
            self.ours |= {router, *self.ports_of(router)}
        return router

    def plug(self, router: str, **what: str) -> str:
        """Add an interface, by subnet_id or port_id; answers with its port."""
        port = str(self.neutron.put(f"/routers/{router}/add_router_interface", what)["port_id"])
        if router in self.ours:
            self.ours.add(port)
        return port

    def unplug(self, router: str, **what: str) -> None:
        self.neutron.put(f"/routers/{router}/remove_router_interface", what)

    def change_gateways(self, router: str, verb: str, *addresses: str) -> Any:
        """`add`, `update` or `remove` gateways at these addresses of the external network."""
        gateways = [
            {"network_id": self.external, "external_fixed_ips": [{"ip_address": address}]} for address in addresses
        ]
        body = {"router": {"external_gateways": gateways}}
        return self.neutron.put(f"/routers/{router}/{verb}_external_gateways", body)

    def address(self, network: str, **attributes: Any) -> dict[str, Any]:
        """A port of an instance."""
        return self.neutron.create("port", network_id=network, **attributes)

    def floating_ip(self, **attributes: Any) -> dict[str, Any]:
        made = self.neutron.create("floatingip", floating_network_id=self.external, **attributes)
        if made["router_id"] in self.ours:
            self.ours.add(made["id"])
        return made

    def forward(self, floating_ip: str, port: dict[str, Any]) -> str:
        """A port forwarding to port 80 of an instance; answers with its path."""
        wanted = {
            "protocol": "tcp",
            "external_port": 8080,
            "internal_port": 80,
            "internal_port_id": port["id"],
            "internal_ip_address": port["fixed_ips"][0]["ip_address"],
        }
        path = f"/floatingips/{floating_ip}/port_forwardings"
        return f"{path}/{self.neutron.post(path, {'port_forwarding': wanted})['port_forwarding']['id']}"

    def remove_router(self, router: str) -> None:
        """A router with its interfaces."""
        owners = "device_owner=network:router_interface"
        for port in self.neutron.get(f"/ports?device_id={router}&{owners}")["ports"]:
            self.unplug(router, port_id=port["id"])
        self.neutron.delete("router", router)

    def ports_of(self, router: str) -> list[str]:
        """Its interfaces and gateways."""
        found = [port["id"] for port in self.neutron.get(f"/ports?device_id={router}")["ports"]]
        if router in self.ours:
            self.ours.update(found)
        return found

    def switch_ports(self) -> dict[str, dict[str, Any]]:
        """OVN's ports of logical switches, by the id that Neutron knows them by."""
        return {row["name"]: row for row in self.ovn.rows("Logical_Switch_Port")}

    def routing(self) -> dict[str, Any]:
        """Everything that OVN knows of forwarding between networks."""
        return {
            table: {row.pop("_uuid"): row for row in map(_without_revision, self.ovn.rows(table))} for table in ROUTING
        }

    def logical_router(self, router: str) -> dict[str, Any] | None:
        """OVN's own, when there is one."""
        return next(iter(self.ovn.rows("Logical_Router", f"name=neutron-{router}")), None)


def _without_revision(row: dict[str, Any]) -> dict[str, Any]:
    """A row that Neutron wrote again, with a new revision and nothing else, is the same row."""
    row["external_ids"].pop("neutron:revision_number", None)
    return row
