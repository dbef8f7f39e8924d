"""Listing many routers: pages, fields, what changed since a revision, what is refused, and who is."""

import datetime as dt
from typing import ClassVar
from unittest import mock

from astara_neutron import log
from astara_neutron.db import models
from neutron_lib import context
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from oslo_config import cfg
from oslo_utils import uuidutils
from snapshot_api import SNAPSHOTS, Json, SnapshotTestCase, tenant


def ids(answer: Json) -> list[str]:
    return [one["id"] for one in answer["router_snapshots"]]


class TestListing(SnapshotTestCase):
    def test_pages_follow_one_another_by_id_until_all_routers_were_listed(self) -> None:
        made = sorted(self.router()["id"] for _ in range(5))
        found: list[str] = []
        query = "limit=2&fields=id"
        while True:
            answer = self.listing(query)
            found += ids(answer)
            links = answer.get("router_snapshots_links")
            if links is None:
                break
            assert [link["rel"] for link in links] == ["next"]
            query = links[0]["href"].partition("?")[2]
            assert f"marker={found[-1]}" in query
            assert "fields=id" in query
        assert found == made

    def test_pages_of_changes_do_so_too_and_keep_what_was_asked(self) -> None:
        told = self.revision()
        made = sorted(self.router()["id"] for _ in range(3))
        first = self.listing(f"changed_since={told}&limit=2&fields=id")
        assert ids(first) == made[:2]
        rest = first["router_snapshots_links"][0]["href"].partition("?")[2]
        assert f"changed_since={told}" in rest
        second = self.listing(rest)
        assert ids(second) == made[2:]
        assert "router_snapshots_links" not in second

    def test_a_page_has_100_routers_where_nobody_says_how_many(self) -> None:
        with mock.patch("astara_neutron.snapshot.listed", return_value=([], 1, None)) as listed:
            self.listing()
        assert listed.call_args.args[2] == 100

    def test_only_the_fields_that_are_wanted_come_and_the_id_always(self) -> None:
        self.router()
        (one,) = self.listing("fields=router&fields=revision")["router_snapshots"]
        assert set(one) == {"id", "router", "revision"}
        (one,) = self.listing("fields=id")["router_snapshots"]
        assert set(one) == {"id"}

    def test_without_fields_a_listed_router_is_its_snapshot(self) -> None:
        external, _ = self.network("203.0.113.0/24", **{"router:external": True})
        _inner, subnet = self.network("10.0.0.0/24")
        router = self.router(subnet, gateway=external)
        (one,) = self.listing()["router_snapshots"]
        assert one == self.snapshot(router)

    def test_more_routers_cost_no_more_questions(self) -> None:
        external, _ = self.network("203.0.113.0/24", **{"router:external": True})
        told = self.revision()
        counts = []
        for number in range(3):
            _inner, subnet = self.network(f"10.0.{number}.0/24")
            router = self.router(subnet, gateway=external)
            helper = {"conntrack_helper": {"protocol": "udp", "port": 69, "helper": "tftp"}}
            self.done("POST", f"/routers/{router['id']}/conntrack_helpers", helper)
            asked = self.statements()
            self.listing(f"changed_since={told}")
            self.listing()
            counts.append(len(asked))
        assert counts[1] == counts[0]
        assert counts[2] == counts[0]

    def test_a_flavor_that_nobody_understands_hides_no_router(self) -> None:
        profile = {"driver": "neutron.services.l3_router.service_providers.single_node.SingleNodeDriver",
                   "metainfo": "{'ha': 'perhaps'}"}  # fmt: skip
        profile = self.done("POST", "/service_profiles", {"service_profile": profile})["service_profile"]
        flavor = self.made("flavor", name="odd", service_type="L3_ROUTER_NAT")
        body = {"service_profile": {"id": profile["id"]}}
        self.done("POST", f"/flavors/{flavor['id']}/service_profiles", body)
        router = self.router(flavor_id=flavor["id"])
        assert self.snapshot(router)["ha"] is False
        assert len(ids(self.listing("fields=ha"))) == 1


class TestRevisions(SnapshotTestCase):
    def test_nothing_is_listed_where_nothing_changed(self) -> None:
        self.router()
        assert self.since(self.revision()) == []

    def test_a_change_is_listed_again_while_the_margin_lasts(self) -> None:
        cfg.CONF.set_override("change_margin", 60, "astara")
        told = self.revision()
        router = self.router()
        assert self.revision() == told
        assert self.since(told) == [router["id"]]
        assert self.since(self.revision()) == [router["id"]]

    def test_an_empty_log_tells_0_which_may_be_asked(self) -> None:
        with db_api.CONTEXT_WRITER.using(context.get_admin_context()) as session:
            session.query(models.Change).delete()
        assert self.revision() == 0
        assert self.since(0) == []

    def test_a_revision_that_was_never_told_is_gone(self) -> None:
        self.router()
        answer = self.call("GET", f"{SNAPSHOTS}?changed_since={self.revision() + 1}")
        assert answer.status_int == 410
        assert "changed_since" in answer.text

    def test_what_is_older_than_is_kept_is_forgotten_and_asking_for_it_is_answered_gone(self) -> None:
        for _ in range(3):
            self.router()
        told = self.revision()
        admin = context.get_admin_context()
        with db_api.CONTEXT_WRITER.using(admin) as session:
            session.query(models.Change).update({"created_at": dt.datetime(2026, 1, 1)})  # noqa: DTZ001 - as kept
        count = len(self.log())
        with mock.patch.object(log, "_PRUNED", 2):
            assert log.prune(admin) == count - 1
        assert log.prune(admin) == 0
        assert [one.id for one in self.log()] == [told]
        assert self.revision() == told
        assert self.since(told) == []
        assert self.call("GET", f"{SNAPSHOTS}?changed_since={told - 2}").status_int == 410
        newer = self.router()
        assert self.since(told) == [newer["id"]]
        assert log.prune(admin) == 0

    def test_where_too_much_changed_to_be_told_everything_is_to_be_listed(self) -> None:
        told = self.revision()
        routers = sorted(self.router()["id"] for _ in range(3))
        with mock.patch.object(log, "MOST", 3):
            assert self.since(told) == routers
            self.router()
            answer = self.call("GET", f"{SNAPSHOTS}?changed_since={told}")
            assert answer.status_int == 410
            assert "too much changed" in answer.text
            assert self.since(self.revision()) == []

    def test_numbers_are_never_used_again(self) -> None:
        self.router()
        last = self.log()[-1].id
        with db_api.CONTEXT_WRITER.using(context.get_admin_context()) as session:
            session.query(models.Change).delete()
        self.router()
        assert self.log()[0].id > last


class TestRefusals(SnapshotTestCase):
    def refused(self, query: str, field: str) -> None:
        answer = self.call("GET", f"{SNAPSHOTS}?{query}")
        assert answer.status_int == 400, query
        assert field in answer.json["NeutronError"]["message"], query

    def test_bad_queries_are_refused_by_the_name_of_the_field(self) -> None:
        for value in ("abc", "-1", "1.5", "", "9" * 19, "9" * 30, "1" * 5000, "%D9%A3"):
            self.refused(f"changed_since={value}", "changed_since")
        for value in ("abc", "0", "501", "-1", "9" * 5000):
            self.refused(f"limit={value}", "limit")
        self.refused("fields=nothing", "fields")
        self.refused("fields=router&fields=", "fields")
        self.refused("marker=" + "a" * 65, "marker: an id of at most 64 characters")
        self.refused("colour=red", "colour")

    def test_bad_queries_of_one_router_too(self) -> None:
        router = self.router()
        for query, field in (("instance=" + "a" * 65, "instance: an id of at most 64 characters"),
                             ("limit=1", "limit")):  # fmt: skip
            answer = self.call("GET", f"{SNAPSHOTS}/{router['id']}?{query}")
            assert answer.status_int == 400
            assert field in answer.json["NeutronError"]["message"]

    def test_a_router_that_is_not_there_is_not_found(self) -> None:
        for name in (uuidutils.generate_uuid(), "nothing", "x" * 300):
            assert self.call("GET", f"{SNAPSHOTS}/{name}").status_int == 404

    def test_tenants_get_neither_a_snapshot_of_their_own_router_nor_a_listing(self) -> None:
        router = self.router()
        for path in (SNAPSHOTS, f"{SNAPSHOTS}/{router['id']}"):
            answer = self.call("GET", path, caller=tenant())
            assert answer.status_int in (403, 404)
            assert set(answer.json) == {"NeutronError"}

    def test_forms_are_not_there(self) -> None:
        router = self.router()
        for _ in ("pecan", "the filter `extensions`"):
            for collection in (SNAPSHOTS, "/astara-router-statuses", "/astara-services"):
                for path in ("new", f"{router['id']}/edit"):
                    assert 400 <= self.call("GET", f"{collection}/{path}").status_int < 500, (collection, path)
            self.answer_as_extensions()

    def test_nothing_can_be_written(self) -> None:
        router = self.router()
        for method, path in (("POST", SNAPSHOTS), ("PUT", f"{SNAPSHOTS}/{router['id']}"),
                             ("DELETE", f"{SNAPSHOTS}/{router['id']}")):  # fmt: skip
            assert self.call(method, path, {}).status_int in (404, 405), method


class TestElsewhere(SnapshotTestCase):
    """Where other plugins serve, and where few are."""

    l3_plugin: ClassVar[str] = "astara-router"
    more_plugins: ClassVar[list[str]] = []

    def test_a_router_of_astara_router_has_a_snapshot_without_the_optional_plugins(self) -> None:
        external, _ = self.network("203.0.113.0/24", **{"router:external": True})
        inner, subnet = self.network("10.0.0.0/24")
        router = self.router(subnet, gateway=external)
        port = self.made("port", network_id=inner["id"], project_id="tenant")
        fip = self.made("floatingip", floating_network_id=external["id"], port_id=port["id"], project_id="tenant")
        found = self.snapshot(router)
        assert found["router"] == self.done("GET", f"/routers/{router['id']}")["router"]
        assert len(found["ports"]) == 2
        assert [(one["id"], one["port_forwardings"]) for one in found["floating_ips"]] == [(fip["id"], [])]
        for part in ("conntrack_helpers", "ndp_proxies", "metering_labels", "qos_policies"):
            assert found[part] == []

    def test_neutron_serves_dhcp_with_ovn_and_where_the_operator_says_so(self) -> None:
        router = self.router()
        assert self.snapshot(router)["dhcp"] == "appliance"
        cfg.CONF.set_override("dhcp", "neutron", "astara")
        assert self.snapshot(router)["dhcp"] == "neutron"
        cfg.CONF.set_override("dhcp", "auto", "astara")
        drivers = directory.get_plugin().mechanism_manager.mech_drivers
        with mock.patch.dict(drivers, {"ovn": mock.Mock()}):
            assert self.snapshot(router)["dhcp"] == "neutron"
            cfg.CONF.set_override("dhcp", "appliance", "astara")
            assert self.snapshot(router)["dhcp"] == "appliance"

    def test_neutrons_other_way_to_extensions_answers_the_same(self) -> None:
        """As in a server whose pipeline has the filter `extensions`."""
        router = self.router()
        mine = self.snapshot(router)
        refused = self.call("GET", f"{SNAPSHOTS}?limit=0").status_int
        listed = self.listing()
        self.answer_as_extensions()
        assert self.snapshot(router) == mine
        assert self.listing() == listed
        assert self.call("GET", f"{SNAPSHOTS}?limit=0").status_int == refused
        assert self.call("GET", f"{SNAPSHOTS}?changed_since=99999").status_int == 410
        assert self.call("GET", SNAPSHOTS, caller=tenant()).status_int == 403
        assert self.call("GET", f"{SNAPSHOTS}/{uuidutils.generate_uuid()}").status_int == 404
