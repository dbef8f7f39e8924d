"""A snapshot is what Neutron's API shows, part by part, and costs the database the same whatever the router's size."""

from neutron_lib.plugins import constants, directory
from oslo_utils import uuidutils
from snapshot_api import Json, SnapshotTestCase, admin


class FullRouter(SnapshotTestCase):
    """A router with one of each."""

    def full(self) -> Json:
        self.external, _ = self.network("203.0.113.0/24", **{"router:external": True})
        self.inner, self.subnet = self.network("10.0.0.0/24")
        self.policy = self.made("policy", under="/qos", name="slow")
        limit = {"bandwidth_limit_rule": {"max_kbps": 1000}}
        self.done("POST", f"/qos/policies/{self.policy['id']}/bandwidth_limit_rules", limit)
        router = self.router(self.subnet, gateway=self.external)
        self.server = uuidutils.generate_uuid()
        self.port = self.made("port", network_id=self.inner["id"], project_id="tenant", dns_name="host",
                              extra_dhcp_opts=[{"opt_name": "mtu", "opt_value": "1400"}])  # fmt: skip
        self.instance_port = self.made("port", network_id=self.inner["id"], device_id=self.server)
        self.fip = self.made("floatingip", floating_network_id=self.external["id"], port_id=self.port["id"],
                             project_id="tenant", qos_policy_id=self.policy["id"])  # fmt: skip
        self.forward(self.subnet, 8000)
        helper = {"conntrack_helper": {"protocol": "udp", "port": 69, "helper": "tftp"}}
        self.done("POST", f"/routers/{router['id']}/conntrack_helpers", helper)
        label = self.done(
            "POST", "/metering/metering-labels", {"metering_label": {"name": "l", "project_id": "tenant"}}
        )
        rule = {"metering_label_id": label["metering_label"]["id"], "direction": "ingress",
                "remote_ip_prefix": "192.0.2.0/24", "excluded": False}  # fmt: skip
        # The API of Neutron 29 makes it and answers 500, since it cannot show the prefix.
        directory.get_plugin(constants.METERING).create_metering_label_rule(admin(), {"metering_label_rule": rule})
        routes = [{"destination": "192.0.2.0/24", "nexthop": "10.0.0.9"}]
        self.changed("router", router, routes=routes)
        return router

    def forward(self, subnet: Json, external_port: int) -> Json:
        """A port forwarding on a floating IP of its own, to a port of its own."""
        fip = self.made("floatingip", floating_network_id=self.external["id"], project_id="tenant")
        port = self.made("port", network_id=subnet["network_id"], project_id="tenant")
        forwarding = {
            "external_port": external_port,
            "internal_port": 80,
            "protocol": "tcp",
            "internal_port_id": port["id"],
            "internal_ip_address": port["fixed_ips"][0]["ip_address"],
        }
        self.done("POST", f"/floatingips/{fip['id']}/port_forwardings", {"port_forwarding": forwarding})
        return fip

    def shown(self, path: str) -> list[Json]:
        (rows,) = self.done("GET", path).values()
        return sorted(rows, key=lambda row: str(row["id"]))


def by_id(rows: list[Json]) -> list[Json]:
    return sorted(rows, key=lambda row: str(row["id"]))


class TestSnapshot(FullRouter):
    def test_each_part_is_what_the_api_shows_an_administrator(self) -> None:
        router = self.full()
        found = self.snapshot(router, self.server)
        assert found["id"] == router["id"]
        assert found["router"] == self.done("GET", f"/routers/{router['id']}")["router"]
        assert found["router"]["routes"]
        assert by_id(found["ports"]) == self.shown(f"/ports?device_id={router['id']}")
        assert {one["device_owner"] for one in found["ports"]} == {
            "network:router_interface", "network:router_gateway"}  # fmt: skip
        assert found["instance_ports"] == self.shown(f"/ports?device_id={self.server}")
        networks = f"/networks?id={self.external['id']}&id={self.inner['id']}"
        assert by_id(found["networks"]) == self.shown(networks)
        assert by_id(found["subnets"]) == self.shown("/subnets")
        shown = self.shown("/floatingips")
        for one in shown:
            path = f"/floatingips/{one['id']}/port_forwardings"
            one["port_forwardings"] = self.done("GET", path)["port_forwardings"]
        assert by_id(found["floating_ips"]) == shown
        assert found["dhcp"] == "appliance"
        assert found["ha"] is False

    def test_allocations_are_all_ports_of_the_internal_networks(self) -> None:
        router = self.full()
        ports = self.shown(f"/ports?network_id={self.inner['id']}")
        found = by_id(self.snapshot(router)["allocations"])
        assert [one["id"] for one in found] == [port["id"] for port in ports]
        for one, port in zip(found, ports, strict=True):
            assert one == {key: port[key] for key in one}
            assert len(one) == 11

    def test_what_other_plugins_add_to_a_router_is_there(self) -> None:
        router = self.full()
        found = self.snapshot(router)
        helpers = self.done("GET", f"/routers/{router['id']}/conntrack_helpers")["conntrack_helpers"]
        assert [{key: one[key] for key in helpers[0]} for one in found["conntrack_helpers"]] == helpers
        (label,) = found["metering_labels"]
        assert [rule["remote_ip_prefix"] for rule in label["rules"]] == ["192.0.2.0/24"]
        (policy,) = found["qos_policies"]
        assert policy["id"] == self.policy["id"]
        assert [rule["max_kbps"] for rule in policy["rules"]] == [1000]
        assert found["ndp_proxies"] == []

    def test_it_has_the_parts_of_the_contract_and_no_more(self) -> None:
        found = self.snapshot(self.full())
        assert set(found) == {
            "id", "revision", "dhcp", "router", "ha", "ports", "instance_ports", "networks", "subnets", "allocations",
            "floating_ips", "conntrack_helpers", "ndp_proxies", "metering_labels", "qos_policies",
        }  # fmt: skip
        assert found["instance_ports"] == []

    def test_all_is_read_in_one_transaction(self) -> None:
        router = self.full()
        asked = self.statements()
        self.snapshot(router, self.server)
        transactions: list[list[str]] = []
        for statement in asked:
            if statement.startswith("BEGIN"):
                transactions.append([])
            else:
                transactions[-1].append(statement)
        (only,) = [one for one in transactions if any("FROM" in statement for statement in one)]
        assert "astara_changes" in only[0], "with the revision begins what the transaction sees"
        assert len(only) > 50

    def test_a_bigger_router_costs_no_more_questions(self) -> None:
        router = self.full()
        asked = self.statements()
        self.snapshot(router)
        once = len(asked)
        for number in range(1, 4):
            _network, subnet = self.network(f"10.0.{number}.0/24")
            self.done("PUT", f"/routers/{router['id']}/add_router_interface", {"subnet_id": subnet["id"]})
            port = self.made("port", network_id=subnet["network_id"], project_id="tenant")
            self.made("floatingip", floating_network_id=self.external["id"], port_id=port["id"], project_id="tenant")
            self.forward(subnet, 8000 + number)
        del asked[:]
        found = self.snapshot(router)
        assert len(found["floating_ips"]) == 8
        assert len(asked) == once
