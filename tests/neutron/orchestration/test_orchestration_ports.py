from typing import ClassVar
from unittest import mock

from neutron_lib import constants, context
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.plugins import directory
from orchestration_api import (
    OTHER_PROJECT,
    ROUTER,
    SERVICE_PROJECT,
    TENANT_PROJECT,
    AstaraTestCase,
    Json,
    admin,
    mark,
    member,
)
from oslo_utils import uuidutils


class TestProtection(AstaraTestCase):
    def test_its_networks_owner_sees_a_service_port_but_can_neither_change_nor_delete_it(self):
        port = self.service_port(self.network())
        assert self.call("GET", f"/ports/{port['id']}", caller=member()).status == 200
        deleted = self.call("DELETE", f"/ports/{port['id']}", caller=member())
        assert deleted.status == 403
        assert port["id"] in deleted.message
        assert f"appliance of router {ROUTER}" in deleted.message
        updated = self.call("PUT", f"/ports/{port['id']}", {"port": {"admin_state_up": False}}, member())
        assert updated.status == 403
        assert self.call("GET", f"/ports/{port['id']}").body["port"]["admin_state_up"] is True

    def test_the_orchestrator_changes_and_deletes_it(self):
        port = self.service_port(self.network())
        assert self.call("PUT", f"/ports/{port['id']}", {"port": {"device_id": "x"}}).status == 200
        assert self.call("DELETE", f"/ports/{port['id']}").status == 204

    def test_so_does_an_orchestrator_that_is_no_admin(self):
        self.load_policy(
            astara_orchestrator="role:astara_orchestrator",
            **{"create_port:port_security_enabled": "role:astara_orchestrator", "create_port": "@"},
        )
        one = member(SERVICE_PROJECT, "astara_orchestrator")
        network = self.network()
        body = {
            "network_id": network["id"],
            "description": mark("svc"),
            "port_security_enabled": False,
            "security_groups": [],
            "fixed_ips": [],
        }
        # It does not see the networks of others, which is Neutron's to say; on its own it does as it likes.
        own = self.network(one, cidr="10.9.0.0/24")
        port = self.made("port", one, **body | {"network_id": own["id"]})
        assert self.call("PUT", f"/ports/{port['id']}", {"port": {"device_id": "x"}}, one).status == 200
        assert self.call("DELETE", f"/ports/{port['id']}", caller=one).status == 204

    def test_nova_plugs_it_in_where_the_orchestrator_is_one_user_alone(self):
        self.load_policy(astara_orchestrator="user_id:orchestrator")
        port = self.service_port(self.network())
        nova = admin("nova", "nova-project")
        body = {"port": {"device_id": "server", "device_owner": "compute:nova", "binding:host_id": "host"}}
        assert self.call("PUT", f"/ports/{port['id']}", body, nova).status == 200
        with_role = member("nova-project", "service", user="nova")
        assert self.call("PUT", f"/ports/{port['id']}", {"port": {"device_id": ""}}, with_role).status == 200

    def test_an_operator_can_keep_admins_from_it(self):
        only = "user_id:orchestrator or rule:service_api"
        self.load_policy(astara_orchestrator="user_id:orchestrator", change_astara_port=only)
        port = self.service_port(self.network())
        assert self.call("DELETE", f"/ports/{port['id']}", caller=admin("somebody", "elsewhere")).status == 403
        assert self.call("DELETE", f"/ports/{port['id']}").status == 204

    def test_neutron_and_its_agents_do_what_they_always_do(self):
        only = "user_id:orchestrator"
        self.load_policy(astara_orchestrator=only, change_astara_port=only)
        port = self.service_port(self.network())
        agents = context.Context(is_admin=True)  # older agents send no roles
        assert directory.get_plugin().update_port_status(agents, port["id"], constants.PORT_STATUS_ACTIVE, "host")
        assert self.call("GET", f"/ports/{port['id']}").body["port"]["status"] == "ACTIVE"

    def test_a_tenant_can_add_a_subnet_of_which_hosts_take_addresses_by_themselves(self):
        network = self.network()
        port = self.service_port(network)
        modes = {"ipv6_address_mode": "slaac", "ipv6_ra_mode": "slaac"}
        subnet = self.made("subnet", member(), network_id=network["id"], ip_version=6, cidr="fd00::/64", **modes)
        assert self.call("GET", f"/ports/{port['id']}").status == 200
        assert self.call("DELETE", f"/subnets/{subnet['id']}", caller=member()).status == 204

    def test_ports_of_tenants_are_theirs_as_ever(self):
        network = self.network()
        port = self.made("port", member(), network_id=network["id"], description="astara is fine")
        body = {"port": {"description": "astara:x"}}
        assert self.call("PUT", f"/ports/{port['id']}", body, member()).status == 200
        assert self.call("DELETE", f"/ports/{port['id']}", caller=member()).status == 204


class TestMarks(AstaraTestCase):
    def test_no_tenant_can_create_a_port_that_looks_like_ours(self):
        network = self.network()
        for description in (mark("svc"), mark("mgt"), "astara:a:b:c:mgt", "ASTARA:a:b:0:SVC", "ästara:a:b:0:mgt "):
            body = {"port": {"network_id": network["id"], "description": description}}
            refused = self.call("POST", "/ports", body, member())
            assert refused.status == 403, description
            assert "mark the orchestrator's ports" in refused.message

    def test_nor_several_at_once(self):
        network = self.network()
        several = [{"network_id": network["id"]}, {"network_id": network["id"], "description": mark("mgt")}]
        assert self.call("POST", "/ports", {"ports": several}, member()).status == 403
        assert self.call("GET", "/ports").body["ports"] == []

    def test_nor_change_one_into_it(self):
        network = self.network()
        port = self.made("port", member(), network_id=network["id"])
        body = {"port": {"description": mark("svc")}}
        assert self.call("PUT", f"/ports/{port['id']}", body, member()).status == 403
        assert self.call("GET", f"/ports/{port['id']}").body["port"]["description"] == ""

    def test_an_admin_who_is_not_the_orchestrator_cannot_either(self):
        self.load_policy(astara_orchestrator="user_id:orchestrator")
        body = {"port": {"network_id": self.network()["id"], "description": mark("mgt")}}
        assert self.call("POST", "/ports", body, admin("somebody")).status == 403

    def test_a_service_port_has_no_port_security(self):
        network = self.network()
        body = {"network_id": network["id"], "description": mark("svc")}
        for more in ({}, {"port_security_enabled": True}):
            refused = self.call("POST", "/ports", {"port": body | more})
            assert refused.status == 400
            assert refused.message.startswith("port_security_enabled: false is expected")
        assert self.service_port(network)["port_security_enabled"] is False

    def test_a_management_port_keeps_it(self):
        port = self.made("port", network_id=self.network()["id"], description=mark("mgt"))
        assert port["port_security_enabled"] is True


class TestHiding(AstaraTestCase):
    more_plugins: ClassVar[list[str]] = ["network_ip_availability"]

    def setUp(self) -> None:
        super().setUp()
        # What an operator should not do, and does: management and tenants on one network, which a tenant owns.
        self.net = self.network(shared=True, caller=admin(project=TENANT_PROJECT))
        self.port = self.made("port", network_id=self.net["id"], description=mark("mgt"), name="hidden")
        self.other = self.made("port", network_id=self.net["id"], name="other")

    def listed(self, caller: object, query: str = "") -> set[str]:
        return {one["name"] for one in self.call("GET", f"/ports{query}", caller=caller).body["ports"]}

    def test_management_ports_do_not_exist_for_the_networks_owner(self):
        assert self.listed(member()) == {"other"}
        assert self.listed(member(), f"?id={self.port['id']}") == set()
        for method, body in (("GET", None), ("DELETE", None), ("PUT", {"port": {"name": "x"}})):
            assert self.call(method, f"/ports/{self.port['id']}", body, member()).status == 404
        assert self.listed(admin()) == {"hidden", "other"}

    def test_those_of_its_project_see_it(self):
        assert self.listed(member(SERVICE_PROJECT)) == {"hidden", "other"}

    def test_pages_are_full_without_it(self):
        for number in range(3):
            self.made("port", member(), network_id=self.net["id"], name=f"p{number}")
        page = self.call("GET", "/ports?limit=4&sort_key=name&sort_dir=asc", caller=member()).body["ports"]
        assert [one["name"] for one in page] == ["other", "p0", "p1", "p2"]

    def test_what_is_counted_stays_counted(self):
        shown = self.call("GET", f"/network-ip-availabilities/{self.net['id']}", caller=admin())
        assert shown.body["network_ip_availability"]["used_ips"] == 2
        body = {"port": {"network_id": self.net["id"], "mac_address": self.port["mac_address"]}}
        assert self.call("POST", "/ports", body, admin(project=TENANT_PROJECT)).status == 409
        in_use = self.call("DELETE", f"/networks/{self.net['id']}", caller=member())
        assert in_use.status == 409

    def test_what_keeps_the_network_is_not_named(self):
        refused = self.call("DELETE", f"/networks/{self.net['id']}", caller=member())
        assert refused.status == 409
        assert refused.message.startswith(f"Unable to complete operation on network {self.net['id']}.")
        assert self.port["id"] not in str(refused.body)
        assert self.port["id"] in self.call("DELETE", f"/networks/{self.net['id']}").message
        assert self.call("DELETE", f"/ports/{self.port['id']}").status == 204
        assert self.other["id"] in self.call("DELETE", f"/networks/{self.net['id']}", caller=member()).message
        assert self.call("DELETE", f"/ports/{self.other['id']}").status == 204
        assert self.call("DELETE", f"/networks/{self.net['id']}", caller=member()).status == 204

    def test_neither_admins_nor_others_cost_a_query_more(self):
        for caller, looked in ((admin(), False), (member(OTHER_PROJECT), True)):
            asked = self.statements()
            self.call("GET", "/ports?fields=id", caller=caller)
            of_ports = [one for one in asked if "FROM ports" in one and "standardattributes.description LIKE" in one]
            assert len(of_ports) == looked


class TestAddresses(AstaraTestCase):
    def allocations(self, ports: list[Json]) -> list[str]:
        return [self.call("GET", f"/ports/{one['id']}").body["port"]["ip_allocation"] for one in ports]

    def test_ports_say_how_they_got_their_addresses_as_nova_wants_to_know(self):
        assert "ip_allocation" in {one["alias"] for one in self.call("GET", "/extensions").body["extensions"]}
        network = self.network()
        port = self.service_port(network)
        assert (port["fixed_ips"], port["ip_allocation"]) == ([], "none")
        usual = self.made("port", member(), network_id=network["id"])
        assert self.allocations([port, usual]) == ["none", "immediate"]

    def test_so_do_ports_that_were_created_several_at_a_time(self):
        network = self.network()
        body = {
            "network_id": network["id"],
            "description": mark("svc"),
            "fixed_ips": [],
            "port_security_enabled": False,
            "security_groups": [],
        }
        usual = {"network_id": network["id"]}
        made = self.call("POST", "/ports", {"ports": [body, body, usual]}).body["ports"]
        assert [one["ip_allocation"] for one in made] == ["none", "none", "immediate"]
        assert self.allocations(made) == ["none", "none", "immediate"]

    def test_a_subnet_can_be_deleted_under_it(self):
        network = self.network()
        self.service_port(network)
        assert self.call("DELETE", f"/subnets/{network['subnet']}", caller=member()).status == 204


class TestAddressesBesideSegments(TestAddresses):
    more_plugins: ClassVar[list[str]] = ["segments"]

    def setUp(self) -> None:
        mock.patch("neutron.services.segments.plugin.NovaSegmentNotifier").start()
        super().setUp()


class TestNetworkDeletion(AstaraTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.net = self.network()
        self.router = self.made("router", member(), name="r")
        self.interface = {"subnet_id": self.net["subnet"]}
        self.call("PUT", f"/routers/{self.router['id']}/add_router_interface", self.interface, member())
        self.port = self.service_port(self.net, self.router["id"])
        body = {"port": {"device_id": ROUTER, "device_owner": f"{constants.DEVICE_OWNER_COMPUTE_PREFIX}nova"}}
        assert self.call("PUT", f"/ports/{self.port['id']}", body).status == 200

    def deleted(self) -> int:
        return self.call("DELETE", f"/networks/{self.net['id']}", caller=member()).status

    def exists(self) -> bool:
        return self.call("GET", f"/ports/{self.port['id']}").status == 200

    def test_a_router_that_is_attached_keeps_the_network_and_the_port(self):
        assert self.deleted() == 409
        assert self.exists()

    def test_once_its_interface_is_gone_the_port_goes_with_the_network_and_nova_hears_of_it(self):
        told = []

        def hear(_resource: str, _event: str, _trigger: object, payload: events.APIEventPayload) -> None:
            told.append((payload.action, payload.latest_state["port"]))

        self.call("PUT", f"/routers/{self.router['id']}/remove_router_interface", self.interface, member())
        registry.subscribe(hear, resources.PORT, events.BEFORE_RESPONSE)
        self.load_policy(change_astara_port="user_id:orchestrator")
        assert self.deleted() == 204
        assert not self.exists()
        [(action, port)] = told
        assert action == "delete_port"
        assert (port["id"], port["device_id"], port["device_owner"]) == (self.port["id"], ROUTER, "compute:nova")

    def test_while_somebody_else_is_on_the_network_nothing_goes(self):
        self.call("PUT", f"/routers/{self.router['id']}/remove_router_interface", self.interface, member())
        self.made("port", member(), network_id=self.net["id"])
        assert self.deleted() == 409
        assert self.exists()

    def test_a_management_port_keeps_its_network(self):
        self.call("PUT", f"/routers/{self.router['id']}/remove_router_interface", self.interface, member())
        self.made("port", network_id=self.net["id"], description=mark("mgt"))
        assert self.deleted() == 409
        assert self.exists()


class TestSharedNetworks(AstaraTestCase):
    """What docs/neutron.md tells operators to do."""

    def test_one_with_a_service_port_is_made_private_once_the_service_project_may_use_it(self):
        service = admin(project=uuidutils.generate_uuid())
        owner = admin(project=TENANT_PROJECT)
        net = self.network(owner, shared=True)
        values = {"port_security_enabled": False, "security_groups": [], "fixed_ips": [], "description": mark("svc")}
        port = self.made("port", service, network_id=net["id"], **values)
        private = {"network": {"shared": False}}
        assert self.call("PUT", f"/networks/{net['id']}", private, owner).status == 409
        allowed = {"object_type": "network", "object_id": net["id"], "action": "access_as_shared"}
        allowed["target_tenant"] = service.project_id
        assert self.call("POST", "/rbac-policies", {"rbac_policy": allowed}, owner).status == 201
        made = self.call("PUT", f"/networks/{net['id']}", private, owner)
        assert (made.status, made.body["network"]["shared"]) == (200, False)
        assert self.call("GET", f"/networks/{net['id']}", caller=member(OTHER_PROJECT)).status == 404
        assert self.call("GET", f"/ports/{port['id']}").status == 200


class TestWithoutPortSecurity(AstaraTestCase):
    extension_drivers: ClassVar[list[str]] = []

    def test_it_is_said_when_neutron_starts(self):
        assert "Add port_security to [ml2] extension_drivers" in self.logged.output

    def setUp(self) -> None:
        with mock.patch("astara_neutron.service_ports.LOG.error") as error:
            super().setUp()
        self.logged = mock.Mock(output=str(error.call_args))
