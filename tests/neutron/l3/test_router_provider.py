"""Routers of Astara's flavors beside routers of agents, with Neutron's own plugin `router`."""

import logging
from unittest import mock

import pytest
import sqlalchemy as sa
from astara_neutron import flavors
from neutron.db import servicetype_db
from neutron.services.l3_router.service_providers import driver_controller
from neutron_lib import context
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from oslo_config import cfg
from router_api import AGENTS_PROVIDER, PROVIDER, Json, RouterTestCase


class BesideAgents(RouterTestCase):
    l3_plugin = "router"
    providers = (f"astara:{PROVIDER}",)

    def default_flavor(self, wanted: str) -> None:
        cfg.CONF.set_override("default_flavor", wanted, "astara")

    def wants_ha(self, router: Json) -> bool:
        return flavors.wants_ha(context.get_admin_context(), router)


class TestProviderBesideAgents(BesideAgents):
    def test_a_router_of_our_flavor_is_ours_and_waits_for_an_instance(self) -> None:
        flavor = self.flavor()
        router = self.router(flavor_id=flavor)
        assert self.provider_of(router) == "astara"
        assert self.shown("router", router)["status"] == "ALLOCATING"
        assert not directory.get_plugin("L3_ROUTER_NAT").router_supports_scheduling(
            context.get_admin_context(), router["id"]
        )

    def test_lists_of_routers_show_flavors(self) -> None:
        flavor = self.flavor()
        self.router(flavor_id=flavor)
        self.router()
        shown = self.done("GET", "/routers?fields=id&fields=flavor_id")["routers"]
        assert {one["flavor_id"] for one in shown} == {flavor, None}

    def test_a_router_without_flavor_is_the_agents(self) -> None:
        router = self.router()
        assert self.provider_of(router) == "single_node"
        assert self.shown("router", router)["status"] == "ACTIVE"

    def test_a_router_from_before_there_were_providers_is_the_agents(self) -> None:
        registry.publish(resources.PROCESS, events.AFTER_INIT, self)
        controller = directory.get_plugin("L3_ROUTER_NAT").l3_driver_controller
        assert controller._attrs_to_driver({"ha": False, "distributed": False}).name == "single_node"

    def test_a_router_of_another_providers_flavor_is_that_ones(self) -> None:
        router = self.router(flavor_id=self.flavor(driver=AGENTS_PROVIDER, name="agents"))
        assert self.provider_of(router) == "single_node"
        assert self.shown("router", router)["status"] == "ACTIVE"

    def test_high_availability_is_the_profiles_and_nothing_is_made_for_agents(self) -> None:
        router = self.router(flavor_id=self.flavor('{"ha": true}'))
        assert self.shown("router", router)["ha"] is False
        assert self.wants_ha(self.shown("router", router))
        assert self.ha_networks() == []

    def test_a_profile_that_says_nothing_wants_no_pair(self) -> None:
        assert not self.wants_ha(self.router(flavor_id=self.flavor()))

    def test_asking_for_what_the_profile_says_is_fine(self) -> None:
        router = self.router(flavor_id=self.flavor('{"ha": true}'), ha=True)
        assert self.wants_ha(router)
        assert self.ha_networks() == []

    def test_asking_for_what_the_profile_denies_is_refused(self) -> None:
        flavor = self.flavor('{"ha": false}')
        assert "contradicts the router's flavor" in self.router_refused(400, flavor_id=flavor, ha=True)
        assert self.ha_networks() == []

    def test_refusing_what_the_profile_demands_is_refused(self) -> None:
        flavor = self.flavor('{"ha": true}')
        assert "contradicts the router's flavor" in self.router_refused(400, flavor_id=flavor, ha=False)

    def test_high_availability_that_no_profile_speaks_of_is_refused_with_the_way_to_get_it(self) -> None:
        assert "service profile" in self.router_refused(400, flavor_id=self.flavor(), ha=True)
        assert self.ha_networks() == []

    def test_high_availability_cannot_be_switched_on_later(self) -> None:
        router = self.router(flavor_id=self.flavor(), admin_state_up=False)
        self.refused(400, "PUT", f"/routers/{router['id']}", {"router": {"ha": True}})
        assert self.ha_networks() == []

    def test_distributed_routers_are_refused(self) -> None:
        message = self.router_refused(400, flavor_id=self.flavor(), distributed=True)
        assert message == "Invalid input for operation: Provider astara does not support distributed=True."

    def test_a_profile_that_is_not_understood_is_named(self) -> None:
        for text in ("ha", '["ha"]', '{"ha": "yes"}'):
            flavor = self.flavor(text, name=text)
            message = self.router_refused(400, flavor_id=flavor)
            assert flavor in message
            assert "metainfo" in message

    def test_an_unknown_flavor_is_said_to_be_unknown(self) -> None:
        unknown = "0b8e7a86-3d3c-4f0b-8b8c-0e4dbb9f3d19"
        assert self.router_refused(404, flavor_id=unknown) == f"Flavor {unknown} could not be found."

    def test_a_disabled_flavor_gives_no_new_routers(self) -> None:
        assert self.router_refused(503, flavor_id=self.flavor(enabled=False)) == "Flavor is not enabled."

    def test_the_address_of_an_interface_stays_as_that_of_an_agents_router_does(self) -> None:
        self.keeps_the_address_of_an_interface(self.router())
        self.keeps_the_address_of_an_interface(self.router(flavor_id=self.flavor()))

    def test_a_routers_whole_life(self) -> None:
        outside, _ = self.network("203.0.113.0/24", external=True)
        _, inside = self.network("10.0.0.0/24")
        router = self.router(flavor_id=self.flavor(), external_gateway_info={"network_id": outside["id"]})
        self.done("PUT", f"/routers/{router['id']}/add_router_interface", {"subnet_id": inside["id"]})
        ports = self.done("GET", f"/ports?device_id={router['id']}")["ports"]
        owners = {port["device_owner"] for port in ports}
        assert owners == {"network:router_gateway", "network:router_interface"}
        self.done("PUT", f"/routers/{router['id']}/remove_router_interface", {"subnet_id": inside["id"]})
        self.done("DELETE", f"/routers/{router['id']}")
        assert self.done("GET", "/routers")["routers"] == []
        assert self.provider_of(router) is None


class TestFloatingIpsThatMove(BesideAgents):
    def setUp(self) -> None:
        super().setUp()
        self.outside, _ = self.network("203.0.113.0/24", external=True)

    def port_behind(self, cidr: str, flavor: str | None) -> str:
        """Id of a port whose router has this flavor."""
        network, subnet = self.network(cidr)
        router = self.router(flavor_id=flavor, external_gateway_info={"network_id": self.outside["id"]})
        self.done("PUT", f"/routers/{router['id']}/add_router_interface", {"subnet_id": subnet["id"]})
        port: str = self.made("port", network_id=network["id"])["id"]
        return port

    def moves(self, floating_ip: Json, port: str | None) -> str:
        """Its status afterwards, which the answer says, too."""
        self.status_is("floatingip", floating_ip, "ACTIVE")
        answer = self.done("PUT", f"/floatingips/{floating_ip['id']}", {"floatingip": {"port_id": port}})
        status: str = answer["floatingip"]["status"]
        assert self.shown("floatingip", floating_ip)["status"] == status
        return status

    def test_one_is_down_that_leaves_a_router_of_ours_or_comes_to_one(self) -> None:
        flavor = self.flavor()
        agents, others, ours = (
            self.port_behind(f"10.0.{number}.0/24", of) for number, of in enumerate((None, None, flavor))
        )
        one = self.made("floatingip", floating_network_id=self.outside["id"], port_id=agents)
        # Agents tell Neutron themselves.
        assert self.moves(one, others) == "ACTIVE"
        assert self.moves(one, ours) == "DOWN"
        assert self.moves(one, agents) == "DOWN"
        assert self.moves(one, None) == "ACTIVE"
        assert self.moves(one, ours) == "DOWN"
        assert self.moves(one, None) == "DOWN"


class TestDefaultFlavor(BesideAgents):
    def test_a_plain_router_gets_the_flavor_that_the_operator_names(self) -> None:
        flavor = self.flavor(name="standard")
        self.default_flavor("standard")
        router = self.router()
        assert router["flavor_id"] == flavor
        assert self.provider_of(router) == "astara"

    def test_the_operator_may_name_it_by_id(self) -> None:
        flavor = self.flavor()
        self.default_flavor(flavor)
        assert self.router()["flavor_id"] == flavor

    def test_a_router_that_names_a_flavor_keeps_it(self) -> None:
        self.flavor(name="standard")
        other = self.flavor(name="agents", driver=AGENTS_PROVIDER)
        self.default_flavor("standard")
        assert self.router(flavor_id=other)["flavor_id"] == other

    def test_null_asks_for_a_router_without_flavor(self) -> None:
        self.flavor(name="standard")
        self.default_flavor("standard")
        router = self.router(flavor_id=None)
        assert router["flavor_id"] is None
        assert self.provider_of(router) == "single_node"

    def test_an_unknown_name_ends_the_request_and_names_the_option(self) -> None:
        self.default_flavor("nobody")
        with self.assertLogs("astara_neutron.default_flavor", logging.ERROR) as logged:
            message = self.router_refused(503)
        assert message == "Neutron's option [astara] default_flavor: there is no router flavor 'nobody'"
        assert message in logged.output[0]

    def test_a_disabled_flavor_ends_the_request_and_names_the_option(self) -> None:
        self.flavor(name="standard", enabled=False)
        self.default_flavor("standard")
        assert "[astara] default_flavor: the router flavor 'standard' is disabled" in self.router_refused(503)

    def test_a_name_that_several_flavors_have_is_refused(self) -> None:
        self.flavor(name="standard")
        self.flavor(name="standard", driver=AGENTS_PROVIDER)
        self.default_flavor("standard")
        assert "several router flavors have the name 'standard'" in self.router_refused(503)

    def test_a_flavor_without_a_provider_ends_the_request_and_names_the_option(self) -> None:
        for name, wrong in self.without_provider().items():
            self.default_flavor(name)
            message = self.router_refused(503)
            assert message == f"Neutron's option [astara] default_flavor: the router flavor '{name}' {wrong}"


class TestWhereAgentsAreHighlyAvailable(BesideAgents):
    configured = {"l3_ha": True, "router_distributed": True}  # noqa: RUF012 - of a test

    def test_our_routers_are_neither(self) -> None:
        router = self.router(flavor_id=self.flavor())
        shown = self.shown("router", router)
        assert (shown["ha"], shown["distributed"]) == (False, False)
        assert not self.wants_ha(shown)
        assert self.ha_networks() == []

    def test_a_pair_is_still_the_profiles(self) -> None:
        assert self.wants_ha(self.router(flavor_id=self.flavor('{"ha": true}')))
        assert self.ha_networks() == []

    def test_a_router_of_the_default_flavor_makes_no_networks_for_agents(self) -> None:
        self.flavor(name="standard")
        self.default_flavor("standard")
        assert self.shown("router", self.router())["ha"] is False
        assert self.ha_networks() == []

    def test_a_refused_router_makes_no_networks_for_agents(self) -> None:
        self.router_refused(400, flavor_id=self.flavor('{"ha": false}'), ha=True)
        self.default_flavor("nobody")
        self.router_refused(503)
        for name in self.without_provider():
            self.default_flavor(name)
            self.router_refused(503)
        assert self.ha_networks() == []

    def test_a_router_of_a_flavor_without_a_provider_makes_no_networks_for_agents(self) -> None:
        self.without_provider()
        for flavor in self.done("GET", "/flavors")["flavors"]:
            body = {"router": {"name": "router", "project_id": "tenant", "flavor_id": flavor["id"]}}
            assert self.call("POST", "/routers", body).status_int in {404, 503}
        unknown = "0b8e7a86-3d3c-4f0b-8b8c-0e4dbb9f3d19"
        self.router_refused(404, flavor_id=unknown)
        assert self.ha_networks() == []


class TestProviderAsDefault(RouterTestCase):
    l3_plugin = "router"

    def test_our_provider_does_not_load_as_the_default_one_beside_agents(self) -> None:
        cfg.CONF.set_override("service_provider", [f"L3_ROUTER_NAT:astara:{PROVIDER}:default"], "service_providers")
        with (
            mock.patch.object(servicetype_db.ServiceTypeManager, "_instance", None),
            pytest.raises(ValueError, match="default_flavor"),
        ):
            driver_controller.DriverController(directory.get_plugin("L3_ROUTER_NAT"))


class TestAfterAstara(RouterTestCase):
    """Neutron's own plugin, where Astara's provider was and is no more."""

    l3_plugin = "router"

    def test_a_router_is_neutrons_again_once_its_database_says_so(self) -> None:
        router = self.router()
        self.record_provider(router, "astara")
        assert self.call("PUT", f"/routers/{router['id']}", {"router": {"name": "other"}}).status_int == 500
        # As docs/neutron.md says.
        mended = "UPDATE providerresourceassociations SET provider_name = 'single_node' WHERE provider_name = 'astara'"
        with db_api.CONTEXT_WRITER.using(context.get_admin_context()) as session:
            session.execute(sa.text(mended))
        self.done("PUT", f"/routers/{router['id']}", {"router": {"name": "other"}})
        self.done("DELETE", f"/routers/{router['id']}")
