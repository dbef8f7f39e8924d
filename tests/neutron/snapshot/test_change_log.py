"""What Neutron tells nobody is in the log of changes all the same, and announced after the commit."""

from typing import Any, ClassVar

import pytest
from astara_neutron.changes import OWN
from neutron_lib import context
from neutron_lib.db import api as db_api
from neutron_lib.plugins import constants, directory
from snapshot_api import Json, SnapshotTestCase


class ChangeTestCase(SnapshotTestCase):
    def a_cloud(self) -> Json:
        self.external, self.external_subnet = self.network("203.0.113.0/24", **{"router:external": True})
        self.inner, self.subnet = self.network("10.0.0.0/24")
        self.mine = self.router(self.subnet, gateway=self.external)
        self.other = self.router()
        self.announced()
        return self.mine

    def seen(self, change: Any) -> None:
        """A change is listed and announced for the one router that it concerns."""
        self.announced()
        told = self.revision()
        change()
        assert self.since(told) == [self.mine["id"]]
        announced = self.announced()
        assert list(announced) == [self.mine["id"]]
        assert announced[self.mine["id"]]["revision"] > told
        assert announced[self.mine["id"]]["project_id"] == "tenant"
        assert announced[self.mine["id"]]["deleted"] is False

    def unseen(self, change: Any) -> None:
        self.announced()
        told = self.revision()
        change()
        assert self.since(told) == []
        assert self.announced() == {}


class TestWhatNeutronIsSilentAbout(ChangeTestCase):
    l3_plugin: ClassVar[str] = "astara-router"  # the other one has no gateways in the plural
    more_plugins: ClassVar[list[str]] = []

    def test_extra_routes_that_are_added_and_removed(self) -> None:
        path = f"/routers/{self.a_cloud()['id']}"
        routes = {"router": {"routes": [{"destination": "192.0.2.0/24", "nexthop": "10.0.0.9"}]}}
        self.seen(lambda: self.done("PUT", f"{path}/add_extraroutes", routes))
        self.seen(lambda: self.done("PUT", f"{path}/remove_extraroutes", routes))

    def test_external_gateways(self) -> None:
        path = f"/routers/{self.a_cloud()['id']}"
        gateways = {"router": {"external_gateways": [{"network_id": self.external["id"]}]}}
        self.answer_as_extensions()
        self.seen(lambda: self.done("PUT", f"{path}/remove_external_gateways", gateways))
        self.seen(lambda: self.done("PUT", f"{path}/add_external_gateways", gateways))

    def test_a_floating_ip_that_loses_its_port(self) -> None:
        self.a_cloud()
        port = self.made("port", network_id=self.inner["id"], project_id="tenant")
        self.made("floatingip", floating_network_id=self.external["id"], port_id=port["id"], project_id="tenant")
        before = len(self.log())
        self.seen(lambda: self.done("DELETE", f"/ports/{port['id']}"))
        assert ("router", self.mine["id"]) in {(one.kind, one.object_id) for one in self.log()[before:]}
        assert self.snapshot(self.mine)["floating_ips"] == []

    def test_ports_that_go_with_their_network(self) -> None:
        self.a_cloud()
        network, _subnet = self.network("10.8.0.0/24")
        self.made("port", network_id=network["id"], device_owner="network:dhcp", device_id="a server")
        before = len(self.log())
        self.done("DELETE", f"/networks/{network['id']}")
        assert ("ports", network["id"]) in {(one.kind, one.object_id) for one in self.log()[before:]}

    def test_what_the_server_does_by_itself(self) -> None:
        self.a_cloud()
        (own,) = [one for one in self.snapshot(self.mine)["ports"] if one["device_owner"] == "network:router_gateway"]
        plugin = directory.get_plugin()
        self.seen(lambda: plugin.update_port_status(context.get_admin_context(), own["id"], "ACTIVE"))


class TestWhatIsLogged(ChangeTestCase):
    def test_a_router_that_is_made_changed_and_deleted(self) -> None:
        self.a_cloud()
        told = self.revision()
        one = self.router()
        assert self.since(told) == [one["id"]]
        told = self.revision()
        self.changed("router", one, name="other")
        assert self.since(told) == [one["id"]]
        told = self.revision()
        self.changed("router", one, description="of the accounts")
        assert self.since(told) == [one["id"]]
        self.announced()
        told = self.revision()
        self.done("DELETE", f"/routers/{one['id']}")
        gone = {"id": one["id"], "project_id": "tenant", "deleted": True}
        assert self.listing(f"changed_since={told}")["router_snapshots"] == [gone]
        announced = self.announced()[one["id"]]
        assert (announced["deleted"], announced["project_id"]) == (True, "tenant")

    def test_subnets_and_networks_of_a_router(self) -> None:
        self.a_cloud()
        self.seen(lambda: self.changed("subnet", self.subnet, dns_nameservers=["192.0.2.53"]))
        route = {"destination": "198.51.100.0/24", "nexthop": "10.0.0.7"}
        self.seen(lambda: self.changed("subnet", self.subnet, host_routes=[route]))
        self.seen(lambda: self.changed("subnet", self.subnet, enable_dhcp=False))
        self.seen(lambda: self.changed("subnet", self.subnet, description="desks"))
        self.seen(lambda: self.changed("network", self.inner, name="desks"))
        self.seen(lambda: self.changed("network", self.external, mtu=1400))
        self.seen(lambda: self.changed("subnet", self.external_subnet, gateway_ip=None))

    def test_ports_of_tenants_on_its_networks(self) -> None:
        self.a_cloud()
        made: list[Json] = []
        self.seen(lambda: made.append(self.made("port", network_id=self.inner["id"], project_id="tenant")))
        (port,) = made
        self.seen(lambda: self.changed("port", port, extra_dhcp_opts=[{"opt_name": "mtu", "opt_value": "1400"}]))
        self.seen(lambda: self.changed("port", port, dns_name="desk"))
        self.seen(lambda: self.changed("port", port, fixed_ips=[{"ip_address": "10.0.0.200"}]))
        self.seen(lambda: self.changed("port", port, description="a desk"))
        self.seen(lambda: self.done("DELETE", f"/ports/{port['id']}"))

    def test_a_port_that_becomes_another_routers_interface_concerns_the_router_that_is_there_too(self) -> None:
        self.a_cloud()
        port = self.made("port", network_id=self.inner["id"], project_id="tenant")
        self.announced()
        told = self.revision()
        self.done("PUT", f"/routers/{self.other['id']}/add_router_interface", {"port_id": port["id"]})
        both = sorted([self.mine["id"], self.other["id"]])
        assert self.since(told) == both
        assert sorted(self.announced()) == both
        owners = {one["id"]: one["device_owner"] for one in self.snapshot(self.mine)["allocations"]}
        assert owners[port["id"]] == "network:router_interface"

    def test_floating_ips_that_come_move_and_go(self) -> None:
        self.a_cloud()
        port = self.made("port", network_id=self.inner["id"], project_id="tenant")
        fip = self.made("floatingip", floating_network_id=self.external["id"], project_id="tenant")
        self.seen(lambda: self.changed("floatingip", fip, port_id=port["id"]))
        self.seen(lambda: self.changed("floatingip", fip, description="web"))
        self.seen(lambda: self.changed("floatingip", fip, port_id=None))
        path = f"/floatingips/{fip['id']}/port_forwardings"
        values = {"external_port": 80, "internal_port": 80, "protocol": "tcp", "internal_port_id": port["id"],
                  "internal_ip_address": port["fixed_ips"][0]["ip_address"]}  # fmt: skip
        made: list[Json] = []
        self.seen(lambda: made.append(self.done("POST", path, {"port_forwarding": values})["port_forwarding"]))
        change = {"port_forwarding": {"external_port": 81}}
        self.seen(lambda: self.done("PUT", f"{path}/{made[0]['id']}", change))
        self.seen(lambda: self.done("DELETE", f"{path}/{made[0]['id']}"))

    def test_both_routers_hear_of_a_floating_ip_that_moves(self) -> None:
        self.a_cloud()
        _network, subnet = self.network("10.9.0.0/24")
        second = self.router(subnet, gateway=self.external)
        ports = [self.made("port", network_id=one["network_id"], project_id="tenant") for one in (self.subnet, subnet)]
        fip = self.made("floatingip", floating_network_id=self.external["id"], port_id=ports[0]["id"],
                        project_id="tenant")  # fmt: skip
        self.announced()
        told = self.revision()
        self.changed("floatingip", fip, port_id=ports[1]["id"])
        both = sorted([self.mine["id"], second["id"]])
        assert self.since(told) == both
        assert sorted(self.announced()) == both

    def test_what_other_plugins_keep_of_a_router(self) -> None:
        self.a_cloud()
        path = f"/routers/{self.mine['id']}"
        helper = {"conntrack_helper": {"protocol": "udp", "port": 69, "helper": "tftp"}}
        self.seen(lambda: self.done("POST", f"{path}/conntrack_helpers", helper))
        self.seen(lambda: self.done("PUT", f"{path}/tags/blue"))
        policy = self.made("policy", under="/qos", name="slow")
        gateway = {"network_id": self.external["id"], "qos_policy_id": policy["id"]}
        self.seen(lambda: self.changed("router", self.mine, external_gateway_info=gateway))
        limit = {"bandwidth_limit_rule": {"max_kbps": 1000}}
        self.seen(lambda: self.done("POST", f"/qos/policies/{policy['id']}/bandwidth_limit_rules", limit))

    def test_labels_concern_the_routers_of_their_project(self) -> None:
        self.a_cloud()
        told = self.revision()
        self.done("POST", "/metering/metering-labels", {"metering_label": {"name": "l", "project_id": "tenant"}})
        assert self.since(told) == sorted([self.mine["id"], self.other["id"]])
        told = self.revision()
        self.done("POST", "/metering/metering-labels", {"metering_label": {"name": "l", "project_id": "else"}})
        assert self.since(told) == []

    def test_each_change_that_concerns_all_routers_gives_them_a_new_revision(self) -> None:
        """What was listed before is told from what is new by the revision alone."""
        self.a_cloud()
        told, before = self.revision(), 0
        for name in ("one", "two", "three"):
            label = {"metering_label": {"name": name, "project_id": "else", "shared": True}}
            self.done("POST", "/metering/metering-labels", label)
            listed = self.listing(f"changed_since={told}&fields=id&fields=revision")["router_snapshots"]
            assert {row["id"] for row in listed} == {self.mine["id"], self.other["id"]}
            (now,) = {row["revision"] for row in listed}
            assert now > before
            before = now


class TestWhatIsNotLogged(ChangeTestCase):
    def test_ports_on_networks_without_a_router_are_announced_to_nobody(self) -> None:
        self.a_cloud()
        network, _subnet = self.network("10.7.0.0/24")
        self.unseen(lambda: self.made("port", network_id=network["id"]))

    def test_ports_of_the_external_network_concern_no_router(self) -> None:
        self.a_cloud()
        self.unseen(lambda: self.made("port", network_id=self.external["id"]))

    def test_appliances_own_ports(self) -> None:
        self.a_cloud()
        mark = f"astara:astara:{self.mine['id']}:0:svc"
        values = {"port_security_enabled": False, "security_groups": [], "description": mark}
        self.unseen(lambda: self.made("port", network_id=self.inner["id"], **values))

    def test_a_tenants_port_that_goes_up(self) -> None:
        self.a_cloud()
        port = self.made("port", network_id=self.inner["id"], project_id="tenant")
        plugin = directory.get_plugin()
        self.unseen(lambda: plugin.update_port_status(context.get_admin_context(), port["id"], "ACTIVE"))

    def test_the_status_that_the_orchestrator_tells(self) -> None:
        router = self.a_cloud()
        body = {"router_status": {"status": "ERROR", "reason": "no host", "ports": {}, "floating_ips": {}}}
        self.unseen(lambda: self.done("PUT", f"/astara-router-statuses/{router['id']}", body))

    def test_what_a_session_says_is_its_own(self) -> None:
        router = self.a_cloud()
        plugin = directory.get_plugin(constants.L3)

        def written() -> None:
            admin = context.get_admin_context()
            with db_api.CONTEXT_WRITER.using(admin) as session:
                session.info[OWN] = True
                plugin._get_router(admin, router["id"]).status = "ERROR"
                session.flush()
                del session.info[OWN]

        self.unseen(written)


class TestTransactions(ChangeTestCase):
    def renamed(self, admin: Any, name: str) -> None:
        plugin = directory.get_plugin(constants.L3)
        with db_api.CONTEXT_WRITER.using(admin) as session:
            plugin._get_router(admin, self.mine["id"]).name = name
            session.flush()

    def renamed_and_failed(self, admin: Any) -> None:
        self.renamed(admin, "never")
        raise LookupError

    def test_one_that_is_rolled_back_leaves_nothing_and_announces_nothing(self) -> None:
        self.a_cloud()
        admin = context.get_admin_context()

        def failed() -> None:
            with pytest.raises(LookupError), db_api.CONTEXT_WRITER.using(admin):
                self.renamed_and_failed(admin)

        self.unseen(failed)

    def test_a_change_is_announced_after_the_outermost_commit_and_not_before(self) -> None:
        self.a_cloud()
        admin = context.get_admin_context()
        feed = directory.get_plugin("ASTARA").feed
        with db_api.CONTEXT_WRITER.using(admin) as session:
            with session.begin_nested():
                self.renamed(admin, "inner")
            assert feed.queued() == 0
        assert feed.queued() == 1
        assert list(self.announced()) == [self.mine["id"]]

    def test_what_recurs_after_a_savepoint_was_rolled_back_is_logged_again(self) -> None:
        self.a_cloud()
        admin = context.get_admin_context()

        def change() -> None:
            with db_api.CONTEXT_WRITER.using(admin) as session:
                with pytest.raises(LookupError), session.begin_nested():
                    self.renamed_and_failed(admin)
                self.renamed(admin, "two")

        self.seen(change)

    def test_a_transaction_writes_each_thing_once_and_a_flush_in_one_statement(self) -> None:
        self.a_cloud()
        admin = context.get_admin_context()
        plugin = directory.get_plugin(constants.L3)
        before = len(self.log())
        asked = self.statements()
        with db_api.CONTEXT_WRITER.using(admin) as session:
            both = [plugin._get_router(admin, one["id"]) for one in (self.mine, self.other)]
            for name in ("a", "b"):
                for one in both:
                    one.name = name
                session.flush()
        assert len([statement for statement in asked if "astara_changes" in statement]) == 1
        assert len(self.log()) == before + 2

    def test_a_port_costs_inserts_and_no_questions(self) -> None:
        network, _subnet = self.network("10.7.0.0/24")
        asked = self.statements()
        self.made("port", network_id=network["id"])
        mine = [statement for statement in asked if "astara_changes" in statement]
        assert {statement.split()[0] for statement in mine} == {"INSERT"}
        assert len(mine) <= 3


class TestWithoutItsTables(ChangeTestCase):
    more_plugins: ClassVar[list[str]] = []

    def test_neutron_does_not_start_where_the_migrations_were_forgotten_and_says_what_to_do(self) -> None:
        with db_api.CONTEXT_WRITER.using(context.get_admin_context()) as session:
            session.connection().exec_driver_sql("ALTER TABLE astara_changes RENAME TO elsewhere")
        self.addCleanup(self._back)
        with pytest.raises(RuntimeError, match="astara_changes: run neutron-db-manage --subproject astara-neutron"):
            directory.get_plugin("ASTARA").__class__()

    def _back(self) -> None:
        with db_api.CONTEXT_WRITER.using(context.get_admin_context()) as session:
            session.connection().exec_driver_sql("ALTER TABLE elsewhere RENAME TO astara_changes")
