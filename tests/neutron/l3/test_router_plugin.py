"""The service plugin `astara-router` and what goes with it: Neutron's L3 API without agents."""

from typing import Any
from unittest import mock

from astara_neutron import flavors
from neutron_lib import context
from neutron_lib.tests.unit import fake_notifier
from oslo_config import cfg
from oslo_messaging.rpc import client as rpc_client
from router_api import AGENTS_PROVIDER, PROVIDER, Json, RouterTestCase

COMPANIONS = ("astara-port-forwarding", "astara-conntrack-helper", "astara-ndp-proxy")

OFFERED = {
    "router",
    "ext-gw-mode",
    "extraroute",
    "extraroute-atomic",
    "external-gateway-multihoming",
    "enable-default-route-ecmp",
    "l3-flavors",
    "flavors",
    "l3-ha",
    "l3-port-ip-change-not-allowed",
    "dns-integration",
    "fip-port-details",
    "floating-ip-port-forwarding-detail",
    "floatingip-pools",
    "router_availability_zone",
    "qos-fip",
    "qos-gateway-ip",
    "floating-ip-port-forwarding",
    "expose-port-forwarding-in-fip",
    "floating-ip-port-forwarding-description",
    "floating-ip-port-forwarding-port-ranges",
    "l3-conntrack-helper",
    "expose-l3-conntrack-helper",
    "l3-ndp-proxy",
    "l3-ext-ndp-proxy",
}
OF_AGENTS = {"l3_agent_scheduler", "dvr", "router-admin-state-down-before-update", "network_ha"}


class TestRouters(RouterTestCase):
    def test_a_router_waits_for_an_instance(self) -> None:
        router = self.router()
        assert self.provider_of(router) == "astara"
        assert self.shown("router", router)["status"] == "ALLOCATING"

    def test_routers_of_neutrons_own_plugin_are_taken_over(self) -> None:
        _, subnet = self.network("10.0.0.0/24")
        one, other, served = self.router(), self.router(), self.router()
        self.done("PUT", f"/routers/{served['id']}/add_router_interface", {"subnet_id": subnet["id"]})
        for router, provider in ((one, "single_node"), (other, "dvrha"), (served, "ha")):
            self.record_provider(router, provider)
        assert self.provider_of(one) == "single_node"
        self.done("PUT", f"/routers/{one['id']}", {"router": {"description": "mine"}})
        assert self.provider_of(one) == "astara"
        self.done("DELETE", f"/routers/{other['id']}")
        # Before anybody asks for its provider, too.
        outside, _ = self.network("203.0.113.0/24", external=True)
        self.done(
            "PUT", f"/routers/{served['id']}", {"router": {"external_gateway_info": {"network_id": outside["id"]}}}
        )
        self.record_provider(served, "ha")
        port = self.made("port", network_id=subnet["network_id"])
        floating = self.made("floatingip", floating_network_id=outside["id"], port_id=port["id"])
        self.status_is("floatingip", floating, "ACTIVE")
        self.done("PUT", f"/floatingips/{floating['id']}", {"floatingip": {"port_id": None}})
        assert self.shown("floatingip", floating)["status"] == "DOWN"

    def test_without_neutrons_qos_plugin_no_extension_of_it_is_offered(self) -> None:
        offered = {one["alias"] for one in self.done("GET", "/extensions")["extensions"]}
        assert not offered & {"qos-fip", "qos-gateway-ip"}

    def test_names_that_are_accepted_are_kept(self) -> None:
        outside, _ = self.network("203.0.113.0/24", external=True)
        named = self.made("network", name="net", dns_domain="example.org.")
        assert self.shown("network", named)["dns_domain"] == "example.org."
        assert self.made("floatingip", floating_network_id=outside["id"])["dns_name"] == ""

    def test_the_address_of_an_interface_stays_as_the_extension_promises(self) -> None:
        self.keeps_the_address_of_an_interface(self.router())

    def test_an_interface_is_announced_as_users_tools_expect(self) -> None:
        self.setup_notification_driver()
        _, subnet = self.network("10.0.0.0/24")
        router = self.router()
        self.done("PUT", f"/routers/{router['id']}/add_router_interface", {"subnet_id": subnet["id"]})
        self.done("PUT", f"/routers/{router['id']}/remove_router_interface", {"subnet_id": subnet["id"]})
        told = [one["event_type"] for one in fake_notifier.NOTIFICATIONS]
        assert [one for one in told if one.startswith("router.interface")] == [
            "router.interface.create",
            "router.interface.delete",
        ]

    def test_null_is_no_flavor(self) -> None:
        cfg.CONF.set_override("default_flavor", "standard", "astara")
        flavor = self.flavor(name="standard")
        assert self.router()["flavor_id"] == flavor
        assert self.provider_of(self.router(flavor_id=None)) == "astara"


class TestWithoutMl2sDns(RouterTestCase):
    """Where nothing would keep the names of networks and ports."""

    extension_drivers = ()

    def test_names_are_refused_and_no_extension_offers_them(self) -> None:
        offered = {one["alias"] for one in self.done("GET", "/extensions")["extensions"]}
        assert not {alias for alias in offered if "dns" in alias}
        named = {"network": {"name": "net", "project_id": "tenant", "dns_domain": "example.org."}}
        assert "dns_domain" in self.refused(400, "POST", "/networks", named)


class TestConfiguredProvider(RouterTestCase):
    providers = (f"Appliances:{PROVIDER}", f"agents:{AGENTS_PROVIDER}")

    def test_it_is_the_default_one_under_its_own_name(self) -> None:
        assert self.provider_of(self.router()) == "appliances"
        assert self.provider_of(self.router(flavor_id=self.flavor())) == "appliances"

    def test_a_flavor_may_choose_another_provider(self) -> None:
        router = self.router(flavor_id=self.flavor(driver=AGENTS_PROVIDER))
        assert self.provider_of(router) == "agents"
        assert self.shown("router", router)["status"] == "ACTIVE"


class TestHighAvailability(RouterTestCase):
    configured = {"l3_ha": True, "router_distributed": True}  # noqa: RUF012 - of a test

    def wants_ha(self, router: Json) -> bool:
        return flavors.wants_ha(context.get_admin_context(), self.shown("router", router))

    def change(self, router: Json, value: bool) -> None:
        self.done("PUT", f"/routers/{router['id']}", {"router": {"ha": value}})

    def test_options_for_agents_say_nothing_of_our_routers(self) -> None:
        router = self.router()
        assert self.shown("router", router)["ha"] is False
        assert "distributed" not in self.shown("router", router)
        assert not self.wants_ha(router)

    def test_users_may_ask_for_it(self) -> None:
        router = self.router(ha=True)
        assert self.shown("router", router)["ha"] is True
        assert self.wants_ha(router)

    def test_users_may_change_their_mind(self) -> None:
        router = self.router()
        self.change(router, True)
        assert self.wants_ha(router)
        self.change(router, False)
        assert not self.wants_ha(router)

    def test_a_profile_says_it_for_all_its_routers(self) -> None:
        router = self.router(flavor_id=self.flavor('{"ha": true}'))
        assert self.shown("router", router)["ha"] is True
        assert self.wants_ha(router)

    def test_a_profile_is_not_contradicted(self) -> None:
        flavor = self.flavor('{"ha": true}')
        assert "contradicts" in self.router_refused(400, flavor_id=flavor, ha=False)
        router = self.router(flavor_id=flavor)
        body = {"router": {"ha": False}}
        assert "contradicts" in self.refused(400, "PUT", f"/routers/{router['id']}", body)
        assert self.shown("router", router)["ha"] is True

    def test_a_profile_that_says_nothing_leaves_it_to_users(self) -> None:
        assert self.wants_ha(self.router(flavor_id=self.flavor(), ha=True))


class MemberActions(RouterTestCase):
    """A router with a gateway and an interface, and another external network."""

    def setUp(self) -> None:
        super().setUp()
        self.outside, outside_subnet = self.network("203.0.113.0/24", external=True)
        self.other, _ = self.network("198.51.100.0/24", external=True)
        _, subnet = self.network("10.0.0.0/24")
        self.fixed = {"subnet_id": outside_subnet["id"]}
        self.one = self.router(external_gateway_info={"network_id": self.outside["id"]})
        self.done("PUT", f"/routers/{self.one['id']}/add_router_interface", {"subnet_id": subnet["id"]})

    def refused(self, action: str, body: Any, *words: str, status: int = 400) -> None:
        """An answer with words, and the router is as it was."""
        before = self.shown("router", self.one)
        answer = self.call("PUT", f"/routers/{self.one['id']}/{action}", body)
        assert answer.status_int == status, f"{action} {body}: {answer.text}"
        for word in words:
            assert word in answer.json["NeutronError"]["message"], f"{action} {body}: {answer.text}"
        assert self.shown("router", self.one) == before

    def gateways_refused(self, action: str, *gateways: Json, words: tuple[str, ...], status: int = 400) -> None:
        body = {"router": {"external_gateways": list(gateways)}}
        self.refused(f"{action}_external_gateways", body, *words, status=status)

    def at(self, *addresses: str, network: Json | None = None) -> Json:
        """A gateway with these addresses."""
        fixed = [{"ip_address": one} for one in addresses]
        return {"network_id": (network or self.outside)["id"], "external_fixed_ips": fixed}

    def floating_ip_behind(self, network: Json, cidr: str) -> Json:
        """One that the router serves, for a port on a network of its own."""
        inside_network, inside = self.network(cidr)
        self.done("PUT", f"/routers/{self.one['id']}/add_router_interface", {"subnet_id": inside["id"]})
        port = self.made("port", network_id=inside_network["id"])
        made = self.made("floatingip", floating_network_id=network["id"], port_id=port["id"])
        assert made["router_id"] == self.one["id"]
        return made

    def gateways(self, action: str, *networks: Json) -> list[str]:
        """Networks of the gateways after a change."""
        body = {"router": {"external_gateways": [{"network_id": one["id"]} for one in networks]}}
        self.done("PUT", f"/routers/{self.one['id']}/{action}", body)
        return [one["network_id"] for one in self.shown("router", self.one)["external_gateways"]]


class TestMemberActions(MemberActions):
    """Extra routes and gateways that are added to a router and taken from it."""

    def test_gateways_come_and_go(self) -> None:
        outside, other = self.outside["id"], self.other["id"]
        assert sorted(self.gateways("add_external_gateways", self.other)) == sorted([outside, other])
        assert self.gateways("remove_external_gateways", self.other) == [outside]
        assert self.gateways("update_external_gateways", self.other) == [other]

    def test_no_gateways_are_taken_away_as_the_openstack_client_does_before_it_unsets_anything(self) -> None:
        body = {"router": {"external_gateways": {}}}
        self.done("PUT", f"/routers/{self.one['id']}/remove_external_gateways", body)
        kept = self.shown("router", self.one)["external_gateways"]
        assert [one["network_id"] for one in kept] == [self.outside["id"]]

    def test_a_floating_ip_of_the_second_network_finds_the_router(self) -> None:
        self.gateways("add_external_gateways", self.other)
        self.floating_ip_behind(self.other, "10.1.0.0/24")

    def test_bodies_without_what_they_are_for_are_refused(self) -> None:
        for actions, field, wrong in (
            (("add_extraroutes", "remove_extraroutes"), "routes", (None, "x", 7, {}, [7], ["x"])),
            # Where these are no objects, Neutron's policy fails before anybody is asked.
            (("add_external_gateways", "update_external_gateways", "remove_external_gateways"), "external_gateways",
             (None, "")),
        ):  # fmt: skip
            for action in actions:
                self.refused(action, None, "router", field)
                self.refused(action, {}, "router", field)
                self.refused(action, {"router": {}}, field)
                for value in wrong:
                    self.refused(action, {"router": {field: value}}, field)

    def test_routes_that_are_none_are_refused(self) -> None:
        for route in ({"destination": "x", "nexthop": "10.0.0.9"}, {"destination": "192.0.2.0/24"}, {"nexthop": "a"}):
            for action in ("add_extraroutes", "remove_extraroutes"):
                self.refused(action, {"router": {"routes": [route]}}, "routes")

    def test_gateways_that_the_router_has_not_are_refused(self) -> None:
        elsewhere = {"network_id": self.other["id"]}
        self.refused("remove_external_gateways", {"router": {"external_gateways": [elsewhere]}}, "network_id")
        named = {"network_id": self.outside["id"], "external_fixed_ips": [{"ip_address": "203.0.113.77"}]}
        self.refused("remove_external_gateways", {"router": {"external_gateways": [named]}}, "external_fixed_ips")
        self.done("PUT", f"/routers/{self.one['id']}", {"router": {"external_gateway_info": None}})
        self.refused("remove_external_gateways", {"router": {"external_gateways": [elsewhere]}}, "external_gateways")

    def test_gateways_without_what_they_are_known_by_are_refused(self) -> None:
        for action in ("add_external_gateways", "update_external_gateways", "remove_external_gateways"):
            self.refused(action, {"router": {"external_gateways": [{}]}}, "external_gateways[0].network_id")
            unnamed = {"network_id": self.outside["id"], "external_fixed_ips": [self.fixed]}
            body = {"router": {"external_gateways": [unnamed]}}
            self.refused(action, body, "external_gateways[0].external_fixed_ips", "ip_address")

    def test_a_gateway_that_cannot_be_had_leaves_those_that_can_alone(self) -> None:
        taken = self.made("port", network_id=self.other["id"])["fixed_ips"][0]["ip_address"]
        inner, inner_subnet = self.network("10.3.0.0/24")
        overlapping, _ = self.network("10.0.0.0/16", external=True)
        good, other = self.at("203.0.113.77"), {"network_id": self.other["id"]}
        fixed = "external_gateways[1].external_fixed_ips"
        elsewhere = {**other, "external_fixed_ips": [{"subnet_id": inner_subnet["id"]}]}
        for action in ("add", "update"):
            for bad, words in (
                (self.at("9.9.9.9", network=self.other), (fixed, "9.9.9.9")),
                (self.at("198.51.100.255", network=self.other), (fixed, "198.51.100.255")),
                (elsewhere, (fixed, inner_subnet["id"])),
                ({**other, "external_fixed_ips": [{}]}, (fixed,)),
                (self.at("198.51.100.1", network=self.other), ("198.51.100.1", "gateway IP")),
                (self.at("203.0.113.77"), (fixed, "203.0.113.77")),
                ({"network_id": inner["id"]}, (inner["id"], "not an external network")),
            ):
                self.gateways_refused(action, good, bad, words=words)
            self.gateways_refused(action, good, self.at(taken, network=self.other), words=(taken,), status=409)
        self.gateways_refused("add", good, {"network_id": overlapping["id"]}, words=("overlaps",))

    def test_networks_that_overlap_are_refused_together(self) -> None:
        self.done("PUT", f"/routers/{self.one['id']}", {"router": {"external_gateway_info": None}})
        one, _ = self.network("192.0.2.0/25", external=True)
        other, _ = self.network("192.0.2.0/24", external=True)
        self.gateways_refused("add", *({"network_id": each["id"]} for each in (one, other)), words=("overlaps",))

    def test_a_gateway_cannot_be_exchanged_for_one_with_an_address_that_cannot_be_had(self) -> None:
        self.gateways_refused("update", self.at("9.9.9.9"), words=("external_gateways[0].external_fixed_ips",))
        self.gateways_refused("update", self.at("9.9.9.9", network=self.other), words=("9.9.9.9",))

    def test_a_gateway_keeps_its_address_and_gets_more(self) -> None:
        address = self.one["external_gateway_info"]["external_fixed_ips"][0]["ip_address"]
        body = {"router": {"external_gateways": [self.at(address, "203.0.113.77"), {"network_id": self.other["id"]}]}}
        self.done("PUT", f"/routers/{self.one['id']}/update_external_gateways", body)
        first, second = self.shown("router", self.one)["external_gateways"]
        assert {one["ip_address"] for one in first["external_fixed_ips"]} == {address, "203.0.113.77"}
        assert second["network_id"] == self.other["id"]

    def test_a_gateway_stays_that_floating_ips_need(self) -> None:
        outside, other = {"network_id": self.outside["id"]}, {"network_id": self.other["id"]}
        self.gateways("add_external_gateways", self.other)
        of_first = self.floating_ip_behind(self.outside, "10.1.0.0/24")
        always = [("update", []), ("remove", [outside]), ("remove", [other, outside])]
        for action, gateways in [*always, ("update", [other])]:
            self.gateways_refused(action, *gateways, words=(self.outside["id"],), status=409)
        self.done("DELETE", f"/floatingips/{of_first['id']}")
        self.floating_ip_behind(self.other, "10.2.0.0/24")
        for action, gateways in [*always, ("update", [outside]), ("remove", [other])]:
            self.gateways_refused(action, *gateways, words=(self.one["id"],), status=409)

    def test_a_gateway_goes_that_no_floating_ip_needs(self) -> None:
        self.floating_ip_behind(self.outside, "10.1.0.0/24")
        outside, other = self.outside["id"], self.other["id"]
        assert self.gateways("update_external_gateways", self.outside, self.other) == [outside, other]
        assert self.gateways("update_external_gateways", self.outside) == [outside]
        assert self.gateways("add_external_gateways", self.other) == [outside, other]
        assert self.gateways("remove_external_gateways", self.other) == [outside]


class TestPoliciesOfGateways(MemberActions):
    """A router has one policy of QoS for its gateways, which the first brings."""

    extension_drivers = ("dns", "qos")
    more_plugins = ("qos",)

    def setUp(self) -> None:
        super().setUp()
        made = (self.done("POST", "/qos/policies", {"policy": {"name": name}}) for name in ("one", "another"))
        self.policy, self.another = (one["policy"]["id"] for one in made)

    def with_policy(self, network: Json, policy: str | None) -> Json:
        return {"network_id": network["id"], "qos_policy_id": policy}

    def test_an_unknown_one_leaves_the_router_without_gateway(self) -> None:
        self.done("PUT", f"/routers/{self.one['id']}", {"router": {"external_gateway_info": None}})
        unknown = self.with_policy(self.outside, "0b8e7a86-3d3c-4f0b-8b8c-0e4dbb9f3d19")
        for action in ("add", "update"):
            self.gateways_refused(action, unknown, words=(unknown["qos_policy_id"],), status=404)

    def test_one_that_would_be_forgotten_is_refused(self) -> None:
        field = "qos_policy_id"
        self.gateways_refused("add", self.with_policy(self.other, self.policy), words=(f"[0].{field}",))
        first, second = self.with_policy(self.outside, self.policy), self.with_policy(self.other, self.another)
        self.gateways_refused("update", first, second, words=(f"[1].{field}",))

    def test_all_gateways_may_name_the_same(self) -> None:
        gateways = [self.with_policy(one, self.policy) for one in (self.outside, self.other)]
        path, body = f"/routers/{self.one['id']}", {"router": {"external_gateways": gateways}}
        self.done("PUT", f"{path}/update_external_gateways", body)
        assert self.shown("router", self.one)["external_gateway_info"]["qos_policy_id"] == self.policy
        more = {"router": {"external_gateways": [{**self.at("203.0.113.88"), "qos_policy_id": self.policy}]}}
        self.done("PUT", f"{path}/add_external_gateways", more)
        shown = self.shown("router", self.one)
        assert len(shown["external_gateways"]) == 3
        assert shown["external_gateway_info"]["qos_policy_id"] == self.policy


class TestZones(RouterTestCase):
    def setUp(self) -> None:
        super().setUp()
        cfg.CONF.set_override("availability_zones", ["east", "west"], "astara")

    def test_a_router_may_ask_for_a_zone_that_the_operator_offers(self) -> None:
        shown = self.shown("router", self.router(availability_zone_hints=["east"]))
        assert shown["availability_zone_hints"] == ["east"]
        assert shown["availability_zones"] == ["east"]

    def test_a_router_cannot_ask_for_another_zone(self) -> None:
        assert "north" in self.router_refused(404, availability_zone_hints=["east", "north"])


class TestFloatingIps(RouterTestCase):
    more_plugins = COMPANIONS

    def setUp(self) -> None:
        super().setUp()
        self.outside, _ = self.network("203.0.113.0/24", external=True)
        self.inside, subnet = self.network("10.0.0.0/24")
        self.one = self.router(external_gateway_info={"network_id": self.outside["id"]})
        self.done("PUT", f"/routers/{self.one['id']}/add_router_interface", {"subnet_id": subnet["id"]})
        self.port = self.made("port", network_id=self.inside["id"])

    def floating_ip(self, **values: Any) -> Json:
        return self.made("floatingip", floating_network_id=self.outside["id"], **values)

    def forwarding(self, floating_ip: Json, port: int) -> str:
        """Path of a new port forwarding."""
        address = self.port["fixed_ips"][0]["ip_address"]
        body = {"internal_port_id": self.port["id"], "internal_ip_address": address, "internal_port": port}
        under = f"/floatingips/{floating_ip['id']}/port_forwardings"
        made = self.done("POST", under, {"port_forwarding": {**body, "external_port": port, "protocol": "tcp"}})
        return f"{under}/{made['port_forwarding']['id']}"

    def test_a_new_one_is_down_until_it_is_served(self) -> None:
        assert self.floating_ip()["status"] == "DOWN"
        assert self.floating_ip(port_id=self.port["id"])["status"] == "DOWN"

    def test_one_that_is_taken_from_its_port_is_down(self) -> None:
        one = self.floating_ip(port_id=self.port["id"])
        self.status_is("floatingip", one, "ACTIVE")
        answer = self.done("PUT", f"/floatingips/{one['id']}", {"floatingip": {"port_id": None}})
        assert answer["floatingip"]["status"] == "DOWN"
        assert self.shown("floatingip", one)["status"] == "DOWN"

    def test_one_whose_port_is_deleted_is_down(self) -> None:
        one = self.floating_ip(port_id=self.port["id"])
        self.status_is("floatingip", one, "ACTIVE")
        self.done("DELETE", f"/ports/{self.port['id']}")
        assert self.shown("floatingip", one)["status"] == "DOWN"

    def test_one_whose_description_changes_stays_as_it_is(self) -> None:
        one = self.floating_ip(port_id=self.port["id"])
        self.status_is("floatingip", one, "ACTIVE")
        self.done("PUT", f"/floatingips/{one['id']}", {"floatingip": {"description": "changed"}})
        assert self.shown("floatingip", one)["status"] == "ACTIVE"

    def test_one_is_down_after_its_last_port_forwarding(self) -> None:
        one = self.floating_ip()
        first, second = self.forwarding(one, 80), self.forwarding(one, 443)
        self.status_is("floatingip", one, "ACTIVE")
        self.done("DELETE", first)
        assert self.shown("floatingip", one)["status"] == "ACTIVE"
        self.done("DELETE", second)
        assert self.shown("floatingip", one)["status"] == "DOWN"


class TestCompanions(RouterTestCase):
    l3_plugin = "qos"
    extension_drivers = ("dns", "qos")
    more_plugins = COMPANIONS
    """They bring `astara-router`, whether it is named or not."""

    def test_the_api_of_the_reference_router_is_there_without_that_of_agents(self) -> None:
        offered = {one["alias"] for one in self.done("GET", "/extensions")["extensions"]}
        assert offered >= OFFERED
        assert not offered & OF_AGENTS

    def test_nothing_is_called_that_no_agent_would_hear(self) -> None:
        topics: list[str] = []

        def heard(client: Any, *_arguments: Any, **_named: Any) -> None:
            topics.append(client.target.topic)

        with (
            mock.patch.object(rpc_client._BaseCallContext, "cast", heard),
            mock.patch.object(rpc_client._BaseCallContext, "call", heard),
            mock.patch.object(rpc_client.RPCClient, "cast", heard),
        ):
            self.live()
        assert [one for one in topics if "l3" in one or one.startswith("neutron-vo-")] == []

    def live(self) -> None:
        """All that a router can have, made and deleted."""
        outside, _ = self.network("203.0.113.0/24", external=True)
        inside, subnet = self.network("10.0.0.0/24")
        router = self.router(external_gateway_info={"network_id": outside["id"]})
        path = f"/routers/{router['id']}"
        self.done("PUT", f"{path}/add_router_interface", {"subnet_id": subnet["id"]})
        route = {"destination": "192.0.2.0/24", "nexthop": "10.0.0.9"}
        self.done("PUT", f"{path}/add_extraroutes", {"router": {"routes": [route]}})
        gateway = {"network_id": outside["id"], "external_fixed_ips": [{"ip_address": "203.0.113.99"}]}
        self.done("PUT", f"{path}/add_external_gateways", {"router": {"external_gateways": [gateway]}})
        helper = {"protocol": "tcp", "port": 21, "helper": "ftp"}
        made = self.done("POST", f"{path}/conntrack_helpers", {"conntrack_helper": helper})["conntrack_helper"]
        self.done("DELETE", f"{path}/conntrack_helpers/{made['id']}")
        port = self.made("port", network_id=inside["id"])
        one = self.made("floatingip", floating_network_id=outside["id"], port_id=port["id"])
        self.done("PUT", f"/floatingips/{one['id']}", {"floatingip": {"port_id": None}})
        body = {"internal_port_id": port["id"], "internal_ip_address": port["fixed_ips"][0]["ip_address"]}
        body |= {"internal_port": 80, "external_port": 80, "protocol": "tcp"}
        forwardings = f"/floatingips/{one['id']}/port_forwardings"
        made = self.done("POST", forwardings, {"port_forwarding": body})["port_forwarding"]
        self.done("PUT", f"{forwardings}/{made['id']}", {"port_forwarding": {"external_port": 81}})
        self.done("DELETE", f"{forwardings}/{made['id']}")
        self.done("DELETE", f"/floatingips/{one['id']}")
        self.done("PUT", f"{path}/remove_extraroutes", {"router": {"routes": [route]}})
        self.done("PUT", f"{path}/remove_router_interface", {"subnet_id": subnet["id"]})
        self.done("DELETE", path)
