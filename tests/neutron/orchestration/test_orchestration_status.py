from typing import ClassVar

from astara_neutron import changes
from astara_neutron.db import models
from neutron_lib import context
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.db import api as db_api
from orchestration_api import OTHER_PROJECT, SERVICE_PROJECT, AstaraTestCase, Json, admin, member

UNKNOWN = "11111111-2222-3333-4444-555555555555"


class StatusTestCase(AstaraTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.external = self.network(admin(), "172.24.4.0/24", **{"router:external": True})
        self.net = self.network()
        self.router = self.made(
            "router", member(), name="r", external_gateway_info={"network_id": self.external["id"]}, **self.wanted()
        )
        path = f"/routers/{self.router['id']}/add_router_interface"
        assert self.call("PUT", path, {"subnet_id": self.net["subnet"]}, member()).status == 200
        port = self.made("port", member(), network_id=self.net["id"])
        self.floating = self.made("floatingip", member(), floating_network_id=self.external["id"], port_id=port["id"])
        self.own = {one["device_owner"]: one["id"] for one in self.ports(device_id=self.router["id"])}

    def wanted(self) -> Json:
        """What else a router is created with."""
        return {}

    def ports(self, **filters: str) -> list[Json]:
        query = "&".join(f"{key}={value}" for key, value in filters.items())
        found: list[Json] = self.call("GET", f"/ports?{query}").body["ports"]
        return found

    def tell(self, caller: context.Context | None = None, **told: object):
        return self.call("PUT", f"/astara-router-statuses/{self.router['id']}", {"router_status": told}, caller)

    def shown(self, caller: context.Context | None = None) -> Json:
        found: Json = self.call("GET", f"/routers/{self.router['id']}", caller=caller or member()).body["router"]
        return found

    def shown_floating(self) -> str:
        return str(self.call("GET", f"/floatingips/{self.floating['id']}").body["floatingip"]["status"])


class TestStatus(StatusTestCase):
    def test_a_tenant_sees_status_and_reason_of_a_router(self):
        assert self.shown()["status_reason"] == ""
        answer = self.tell(status="ERROR", reason="No valid host was found")
        assert answer.status == 200
        assert answer.body == {"router_status": {"status": "ERROR", "reason": "No valid host was found"}}
        shown = self.shown()
        assert (shown["status"], shown["status_reason"]) == ("ERROR", "No valid host was found")
        [listed] = self.call("GET", "/routers", caller=member()).body["routers"]
        assert (listed["status"], listed["status_reason"]) == ("ERROR", "No valid host was found")
        assert self.call("GET", "/routers?fields=status_reason", caller=member()).body["routers"] == [
            {"status_reason": "No valid host was found"}
        ]

    def test_each_part_can_be_left_out_and_stays_as_it_was(self):
        self.tell(status="ERROR", reason="broken")
        assert self.tell(status="ACTIVE").body["router_status"] == {"status": "ACTIVE", "reason": "broken"}
        assert self.tell(reason="").body["router_status"] == {"status": "ACTIVE", "reason": ""}
        assert self.tell().body["router_status"] == {"status": "ACTIVE", "reason": ""}
        assert self.shown()["status_reason"] == ""

    def test_all_that_a_router_has_is_named_by_an_asterisk(self):
        gateway, interface = self.own["network:router_gateway"], self.own["network:router_interface"]
        self.tell(floating_ips={self.floating["id"]: "ACTIVE"}, ports={gateway: "ACTIVE", interface: "ACTIVE"})
        other = self.made("router", member(), name="other")
        path = f"/routers/{other['id']}/add_router_interface"
        there = self.call(
            "PUT", path, {"port_id": self.made("port", member(), network_id=self.net["id"])["id"]}, member()
        )
        theirs = self.call("GET", f"/ports/{there.body['port_id']}").body["port"]
        answer = self.tell(status="ALLOCATING", floating_ips={"*": "DOWN"}, ports={"*": "DOWN", gateway: "ACTIVE"})
        assert answer.status == 200
        assert answer.body["router_status"]["floating_ips"] == {self.floating["id"]: "DOWN"}
        assert answer.body["router_status"]["ports"] == {interface: "DOWN", gateway: "ACTIVE"}
        assert self.shown_floating() == "DOWN"
        assert {one["id"]: one["status"] for one in self.ports(device_id=self.router["id"])} == {
            interface: "DOWN", gateway: "ACTIVE",
        }  # fmt: skip
        assert self.call("GET", f"/ports/{theirs['id']}").body["port"]["status"] == theirs["status"]
        # What is so already is neither written nor answered.
        again = self.tell(floating_ips={"*": "DOWN"}, ports={"*": "DOWN"})
        assert again.body["router_status"]["floating_ips"] == {}
        assert again.body["router_status"]["ports"] == {gateway: "DOWN"}
        refused = self.tell(ports={"*": "UP"})
        assert refused.status == 400
        assert "router_status.ports.*: one of ACTIVE, DOWN is expected" in str(refused.body)

    def test_a_running_router_can_have_a_reason(self):
        assert self.tell(status="ACTIVE", reason="running, but the last change was refused").status == 200
        assert self.tell(reason="ü" * 1024).status == 200
        assert self.shown()["status_reason"] == "ü" * 1024

    def test_floating_ips_and_ports_that_are_the_routers_are_set_and_others_left_out(self):
        other = self.made("floatingip", member(), floating_network_id=self.external["id"])
        strange = self.made("port", member(), network_id=self.net["id"], device_id=self.router["id"])
        interface, gateway = self.own["network:router_interface"], self.own["network:router_gateway"]
        before = self.shown_floating()
        assert before == "DOWN"
        answer = self.tell(
            floating_ips={self.floating["id"]: "ACTIVE", other["id"]: "ERROR", UNKNOWN: "ACTIVE"},
            ports={interface: "ACTIVE", gateway: "DOWN", strange["id"]: "ACTIVE", UNKNOWN: "ACTIVE"},
        )
        assert answer.body["router_status"]["floating_ips"] == {self.floating["id"]: "ACTIVE"}
        assert answer.body["router_status"]["ports"] == {interface: "ACTIVE", gateway: "DOWN"}
        assert self.shown_floating() == "ACTIVE"
        statuses = {one["id"]: one["status"] for one in self.ports()}
        assert (statuses[interface], statuses[gateway], statuses[strange["id"]]) == ("ACTIVE", "DOWN", "DOWN")
        assert self.call("GET", f"/floatingips/{other['id']}").body["floatingip"]["status"] == "DOWN"

    def test_revisions_move_with_what_users_see_and_with_nothing_else(self):
        def revisions() -> tuple[int, int]:
            floating = self.call("GET", f"/floatingips/{self.floating['id']}").body["floatingip"]
            return self.shown()["revision_number"], floating["revision_number"]

        router, floating = revisions()
        self.tell(status="ERROR", reason="broken", floating_ips={self.floating["id"]: "ERROR"})
        assert revisions() == (router + 1, floating + 1)
        self.tell(status="ERROR", reason="broken", floating_ips={self.floating["id"]: "ERROR"})
        assert revisions() == (router + 1, floating + 1)
        self.tell(reason="still broken")
        assert revisions() == (router + 2, floating + 1)

    def test_nobody_is_notified_and_the_log_of_changes_has_nothing_of_it(self):
        heard = []

        def hear(resource: str, event: str, _trigger: object, payload: object) -> None:
            heard.append((resource, event))

        for resource in (resources.ROUTER, resources.FLOATING_IP, resources.PORT):
            for event in (events.BEFORE_UPDATE, events.PRECOMMIT_UPDATE, events.AFTER_UPDATE, events.BEFORE_RESPONSE):
                registry.subscribe(hear, resource, event)
            registry.subscribe(hear, resource, events.AFTER_STATUS_UPDATE)

        def logged() -> int:
            with db_api.CONTEXT_READER.using(context.get_admin_context()) as session:
                return session.query(models.Change).count()

        before = logged()
        assert before > 0
        interface = self.own["network:router_interface"]
        self.tell(status="ERROR", reason="x", floating_ips={self.floating["id"]: "ERROR"}, ports={interface: "ACTIVE"})
        assert (heard, logged()) == ([], before)
        self.call("PUT", f"/routers/{self.router['id']}", {"router": {"name": "new"}}, member())
        assert heard
        assert logged() > before
        assert changes.OWN == "astara_writes_status"

    def test_what_it_costs(self):
        self.tell(status="ACTIVE", reason="x")
        told = {
            "status": "ACTIVE",
            "reason": "x",
            "floating_ips": {self.floating["id"]: "ACTIVE"},
            "ports": dict.fromkeys(self.own.values(), "ACTIVE"),
        }
        asked = self.statements()
        self.tell(**told)
        # Of router, reason, floating IPs and ports; then each that changes, the two ports in one, and its revision.
        assert [len([one for one in asked if one.startswith(kind)]) for kind in ("SELECT", "UPDATE")] == [4, 5]
        asked.clear()
        self.tell(**told)
        assert [one.split()[0] for one in asked if one != "BEGIN"] == ["SELECT"] * 4

    def test_a_listing_of_routers_asks_for_no_reason_by_itself(self):
        for number in range(3):
            made = self.made("router", member(), name=f"r{number}")
            self.call("PUT", f"/astara-router-statuses/{made['id']}", {"router_status": {"reason": "x"}})
        asked = self.statements()
        listed = self.call("GET", "/routers", caller=member()).body["routers"]
        assert sorted(one["status_reason"] for one in listed) == ["", "x", "x", "x"]
        assert len([one for one in asked if "astara_router_statuses" in one]) == 1

    def test_a_router_goes_with_its_reason(self):
        made = self.made("router", member(), name="short")
        self.call("PUT", f"/astara-router-statuses/{made['id']}", {"router_status": {"reason": "x"}})
        assert self.call("DELETE", f"/routers/{made['id']}", caller=member()).status == 204
        with db_api.CONTEXT_READER.using(context.get_admin_context()) as session:
            assert session.query(models.RouterStatus).count() == 0

    def test_a_floating_ip_that_moves_is_down_until_the_other_router_serves_it(self) -> None:
        outside = self.network(admin(), "172.24.4.0/24", **{"router:external": True})
        ports, routers = [], []
        for cidr in ("10.0.0.0/24", "10.1.0.0/24"):
            network = self.network(cidr=cidr)
            gateway = {"external_gateway_info": {"network_id": outside["id"]}}
            routers.append(self.made("router", member(), name="r", **gateway)["id"])
            body = {"subnet_id": network["subnet"]}
            assert self.call("PUT", f"/routers/{routers[-1]}/add_router_interface", body, member()).status == 200
            ports.append(self.made("port", member(), network_id=network["id"])["id"])
        fip = self.made("floatingip", member(), floating_network_id=outside["id"], port_id=ports[0])["id"]
        told = {"router_status": {"floating_ips": {fip: "ACTIVE"}}}
        assert self.call("PUT", f"/astara-router-statuses/{routers[0]}", told).status == 200
        moved = self.call("PUT", f"/floatingips/{fip}", {"floatingip": {"port_id": ports[1]}}, member())
        assert self.call("GET", f"/floatingips/{fip}").body["floatingip"]["status"] == "DOWN", moved.body


class TestWhoAndWhat(StatusTestCase):
    def test_who_is_not_the_orchestrator_is_refused(self):
        assert self.tell(member(), status="ACTIVE").status == 403
        assert self.tell(member(OTHER_PROJECT), status="ACTIVE").status == 403
        self.load_policy(astara_orchestrator="user_id:orchestrator")
        assert self.tell(admin("somebody"), status="ACTIVE").status == 403
        assert self.tell(admin("orchestrator"), status="ACTIVE").status == 200
        self.load_policy(astara_orchestrator="role:astara_orchestrator")
        assert self.tell(admin(), status="ACTIVE").status == 403
        assert self.tell(member(SERVICE_PROJECT, "astara_orchestrator"), status="ERROR").status == 200

    def test_tenants_cannot_write_it_otherwise(self):
        for body in ({"status_reason": "x"}, {"status": "ACTIVE"}):
            for caller in (member(), admin()):
                assert self.call("PUT", f"/routers/{self.router['id']}", {"router": body}, caller).status == 400

    def test_an_operator_can_hide_reasons(self):
        self.tell(reason="secret")
        self.load_policy(**{"get_router:status_reason": "rule:astara_orchestrator"})
        assert "status_reason" not in self.shown()
        assert self.shown(admin())["status_reason"] == "secret"

    def test_what_a_table_could_not_keep_of_a_reason_is_replaced(self):
        told = self.tell(reason="no 💥 space\0 in \ud800").body["router_status"]
        assert told["reason"] == "no \ufffd space\ufffd in \ufffd"
        assert self.shown()["status_reason"] == "no \ufffd space\ufffd in \ufffd"

    def test_unknown_routers_are_not_found(self):
        for one in (UNKNOWN, "nonsense"):
            assert self.call("PUT", f"/astara-router-statuses/{one}", {"router_status": {}}).status == 404

    def test_bad_input_names_the_field(self):
        floating = self.floating["id"]
        bad = {
            "body": [None, b"", [], {}, {"router": {}}, {"router_status": {}, "more": 1}],
            "router_status": [{"router_status": value} for value in (None, "ACTIVE", [], 1)],
            "router_status.status": [
                {"router_status": {"status": value}} for value in ("DOWN", "active", None, {}, [])
            ],
            "router_status.reason": [{"router_status": {"reason": value}} for value in ("x" * 1025, None, 1, {})],
            "router_status.name": [{"router_status": {"name": "x"}}],
            "router_status.floating_ips": [
                *({"router_status": {"floating_ips": value}} for value in (None, [], "x")),
                *({"router_status": {"floating_ips": {floating: value}}} for value in ("ALLOCATING", None, [], 1)),
                *(
                    {"router_status": {"floating_ips": {name: "ACTIVE"}}}
                    for name in ("x", "💥", "\ud800", "", floating.upper(), floating.replace("-", ""))
                ),
            ],
            "router_status.ports": [
                *({"router_status": {"ports": value}} for value in (None, [], "x")),
                {"router_status": {"status": "ERROR", "ports": {UNKNOWN: "ERROR"}}},
            ],
        }
        for text in (b"{", b"\xff"):
            malformed = self.call("PUT", f"/astara-router-statuses/{self.router['id']}", text)
            assert (malformed.status, "JSON" in malformed.message) == (400, True)
        for field, bodies in bad.items():
            for body in bodies:
                refused = self.call("PUT", f"/astara-router-statuses/{self.router['id']}", body)
                assert refused.status == 400, (field, body)
                assert refused.message.startswith(field), (refused.message, body)
        assert self.shown()["status"] == self.router["status"]

    def test_a_body_that_is_nested_too_deeply_is_refused(self):
        path = f"/astara-router-statuses/{self.router['id']}"
        for count in (33, 900, 200_000):
            for inside in (b"[" * count + b"]" * count, b'{"a":' * count + b"1" + b"}" * count, b"[" * count):
                for body in (inside, b'{"router_status": {"ports": ' + inside + b"}}"):
                    refused = self.call("PUT", path, body)
                    assert refused.status == 400, (count, refused.body)
                    expected = ("body: at most 32 levels", "body: JSON is expected")
                    assert refused.message.startswith(expected), refused.message
        assert self.tell(status="ERROR").status == 200

    def test_forms_are_not_there(self):
        for collection in ("astara-router-snapshots", "astara-router-statuses", "astara-services"):
            for path in ("new", f"{self.router['id']}/edit"):
                assert self.call("GET", f"/{collection}/{path}").status == 404, (collection, path)

    def test_a_query_that_is_no_text_is_the_requests_fault(self):
        for query in ("?marker=%ff", "?%ff=1", f"/{self.router['id']}?instance=%ff"):
            answer = self.call("GET", f"/astara-router-snapshots{query}")
            assert (answer.status, "UTF-8" in answer.message) == (400, True), query


class TestStatusWithNeutronsOwnRouters(StatusTestCase):
    """Neutron's router plugin, with agents: what a router needs of them is not there, and not asked for."""

    l3_plugin: ClassVar[str] = "router"

    def test_status_is_set_there_too(self):
        interface = self.own["network:router_interface"]
        answer = self.tell(
            status="ERROR", reason="x", floating_ips={self.floating["id"]: "ERROR"}, ports={interface: "ACTIVE"}
        )
        assert answer.body["router_status"] == {
            "status": "ERROR",
            "reason": "x",
            "floating_ips": {self.floating["id"]: "ERROR"},
            "ports": {interface: "ACTIVE"},
        }
        assert (self.shown()["status"], self.shown()["status_reason"]) == ("ERROR", "x")
        assert self.shown_floating() == "ERROR"
