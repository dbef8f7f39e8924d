"""What other tenants may try with the ports of routers and of appliances, past the ports' own API."""

from typing import ClassVar
from unittest import mock

from neutron.db import models_v2
from neutron_lib import context
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from orchestration_api import OTHER_PROJECT, ROUTER, Answer, AstaraTestCase, Json, admin, member


class TestForgedPorts(AstaraTestCase):
    def test_a_port_that_only_says_to_be_a_gateway_is_no_part_of_a_router(self) -> None:
        victim = self.made("router", member(), name="victim")
        inner = self.network()
        body = {"subnet_id": inner["subnet"]}
        assert self.call("PUT", f"/routers/{victim['id']}/add_router_interface", body, member()).status == 200
        intruder = member(OTHER_PROJECT, user="intruder")
        theirs = self.network(intruder, cidr="10.66.0.0/24")
        forged = {"network_id": theirs["id"], "device_id": victim["id"], "device_owner": "network:router_gateway"}
        assert self.call("POST", "/ports", {"port": forged}, intruder).status == 201, "Neutron lets it"
        shown = self.call("GET", f"/astara-router-snapshots/{victim['id']}").body["router_snapshot"]
        assert [port["network_id"] for port in shown["ports"]] == [inner["id"]]
        assert [network["id"] for network in shown["networks"]] == [inner["id"]]

    def test_letters_that_a_database_finds_alike_make_no_mark(self) -> None:
        network = self.network()
        made = self.made("port", member(), network_id=network["id"], description=f"aßtara:x:{ROUTER}:0:svc")
        self.service_port(network)
        assert self.call("DELETE", f"/networks/{network['id']}", caller=member()).status == 409
        assert self.call("GET", f"/ports/{made['id']}", caller=member()).status == 200

    def test_a_port_from_before_the_plugin_whose_number_is_none_is_a_port_like_any_other(self) -> None:
        network = self.network()
        port = self.made("port", member(), network_id=network["id"])
        with db_api.CONTEXT_WRITER.using(context.get_admin_context()) as session:
            row = session.query(models_v2.Port).filter_by(id=port["id"]).one()
            row.standard_attr.description = "astara:x:y:²:svc"
        assert self.call("GET", "/astara-router-snapshots").status == 200
        answer = self.call("PUT", f"/ports/{port['id']}", {"port": {"name": "mine"}}, member())
        assert answer.status == 200, answer.body
        assert self.call("DELETE", f"/ports/{port['id']}", caller=member()).status == 204


class TestTrunks(AstaraTestCase):
    more_plugins: ClassVar[list[str]] = ["trunk"]

    def setUp(self) -> None:
        # It asks mechanism drivers, of which these tests have none that binds.
        mock.patch("neutron.services.trunk.plugin.TrunkPlugin.check_compatibility").start()
        super().setUp()
        directory.get_plugin("trunk").add_segmentation_type("vlan", lambda _number: True)

    def test_a_tenant_cannot_make_a_service_port_part_of_a_trunk(self) -> None:
        network = self.network()
        port = self.service_port(network)
        parent = self.made("port", member(), network_id=network["id"])
        inside = [{"port_id": port["id"], "segmentation_type": "vlan", "segmentation_id": 5}]
        for trunk in ({"port_id": port["id"]}, {"port_id": parent["id"], "sub_ports": inside}):
            answer = self.call("POST", "/trunks", {"trunk": trunk}, member())
            assert (answer.status, port["id"] in answer.message) == (403, True), answer.body
            assert self.call("GET", "/trunks", caller=admin()).body == {"trunks": []}
        deleted = self.call("DELETE", f"/ports/{port['id']}")
        assert deleted.status == 204, deleted.body

    def test_nor_add_it_to_one(self) -> None:
        network = self.network()
        port = self.service_port(network)
        parent = self.made("port", member(), network_id=network["id"])
        inside = [{"port_id": port["id"], "segmentation_type": "vlan", "segmentation_id": 5}]
        trunk = self.made("trunk", member(), port_id=parent["id"])
        answer = self.call("PUT", f"/trunks/{trunk['id']}/add_subports", {"sub_ports": inside}, member())
        assert (answer.status, port["id"] in answer.message) == (403, True), answer.body


class TestLocalIps(AstaraTestCase):
    more_plugins: ClassVar[list[str]] = ["local_ip"]

    def setUp(self) -> None:
        super().setUp()
        self.net = self.network()
        self.port = self.service_port(self.net)
        self.desk = self.made("port", member(), network_id=self.net["id"])
        # A tenant gives the first an address by a subnet of which hosts take theirs by themselves.
        modes = {"ipv6_address_mode": "slaac", "ipv6_ra_mode": "slaac"}
        self.made("subnet", member(), network_id=self.net["id"], ip_version=6, cidr="fd00::/64", **modes)

    def address(self, port_id: str) -> str:
        found = self.call("GET", f"/ports/{port_id}").body["port"]["fixed_ips"]
        return str(found[0]["ip_address"])

    def local_ip(self, port_id: str, caller: context.Context) -> Answer:
        body = {"local_ip": {"local_port_id": port_id, "local_ip_address": self.address(port_id)}}
        return self.call("POST", "/local-ips", body, caller)

    def associated(self, local_ip_id: str, port_id: str, caller: context.Context) -> Answer:
        body = {"port_association": {"fixed_port_id": port_id, "fixed_ip": self.address(port_id)}}
        return self.call("POST", f"/local_ips/{local_ip_id}/port_associations", body, caller)

    def of_a_tenant(self) -> Json:
        """A local IP as it is meant to be."""
        answer = self.call("POST", "/local-ips", {"local_ip": {"network_id": self.net["id"]}}, member())
        assert answer.status == 201, answer.body
        found: Json = answer.body["local_ip"]
        return found

    def test_a_tenant_cannot_make_one_of_a_service_port(self) -> None:
        answer = self.local_ip(self.port["id"], member())
        assert (answer.status, self.port["id"] in answer.message) == (403, True), answer.body
        assert self.call("GET", "/local-ips").body == {"local_ips": []}
        assert self.call("DELETE", f"/ports/{self.port['id']}").status == 204

    def test_nor_lead_one_to_a_service_port(self) -> None:
        own = self.of_a_tenant()
        answer = self.associated(own["id"], self.port["id"], member())
        assert (answer.status, self.port["id"] in answer.message) == (403, True), answer.body
        path = f"/local_ips/{own['id']}/port_associations"
        assert self.call("GET", path).body == {"port_associations": []}

    def test_local_ips_of_tenants_are_theirs_as_ever(self) -> None:
        own = self.of_a_tenant()
        assert self.associated(own["id"], self.desk["id"], member()).status == 201
        assert self.local_ip(self.desk["id"], member()).status == 201
        assert self.call("DELETE", f"/ports/{self.desk['id']}", caller=member()).status == 409

    def test_one_that_is_there_already_keeps_neither_the_port_nor_its_network(self) -> None:
        # As from before the plugin: what the orchestrator may do stands for what everybody could.
        made = self.local_ip(self.port["id"], admin()).body["local_ip"]
        assert self.associated(made["id"], self.desk["id"], admin()).status == 201
        assert self.associated(made["id"], self.port["id"], admin()).status == 201
        deleted = self.call("DELETE", f"/ports/{self.desk['id']}", caller=member())
        assert deleted.status == 204, deleted.body
        deleted = self.call("DELETE", f"/networks/{self.net['id']}", caller=member())
        assert deleted.status == 204, deleted.body
        assert self.call("GET", "/local-ips").body == {"local_ips": []}

    def test_who_may_not_delete_the_port_takes_none_from_it(self) -> None:
        made = self.local_ip(self.port["id"], admin()).body["local_ip"]
        assert self.call("DELETE", f"/ports/{self.port['id']}", caller=member()).status == 403
        assert [one["id"] for one in self.call("GET", "/local-ips").body["local_ips"]] == [made["id"]]


class TestServicePorts(AstaraTestCase):
    def test_port_security_stays_off(self) -> None:
        port = self.service_port(self.network())
        assert self.call("PUT", f"/ports/{port['id']}", {"port": {"port_security_enabled": True}}).status == 400
