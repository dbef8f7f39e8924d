"""Neutron's API with the plugin `astara` on ML2 and SQLite, and the change feed in the test's hand."""

import datetime as dt
import json
from typing import Any, ClassVar
from unittest import mock

import webob
from astara_neutron.db import models
from astara_neutron.feed import EVENT
from neutron import policy
from neutron.api import extensions
from neutron.conf import policies as default_policies
from neutron.tests.common import test_db_base_plugin_v2 as neutron_base
from neutron.tests.unit.api import test_extensions
from neutron_lib import context
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from neutron_lib.tests.unit import fake_notifier
from oslo_config import cfg
from sqlalchemy import event


def admin() -> context.Context:
    return context.Context("orchestrator", "service", roles=["admin", "member", "reader"])


def tenant() -> context.Context:
    return context.Context("somebody", "tenant", roles=["member", "reader"])


SNAPSHOTS = "/astara-router-snapshots"

Json = dict[str, Any]


class SnapshotTestCase(neutron_base.NeutronDbPluginV2TestCase):
    l3_plugin: ClassVar[str] = "router"
    more_plugins: ClassVar[list[str]] = ["port_forwarding", "qos", "metering", "conntrack_helper", "ndp_proxy"]

    def setUp(self) -> None:
        mock.patch("neutron.plugins.ml2.ovo_rpc.OVOServerRpcInterface").start()
        # SQLite has one connection here: the test says when the feed's thread would work.
        mock.patch("astara_neutron.feed.Feed._start").start()
        cfg.CONF.import_group("ml2", "neutron.plugins.ml2.plugin")
        cfg.CONF.set_override("mechanism_drivers", ["logger"], "ml2")
        cfg.CONF.set_override("type_drivers", ["local"], "ml2")
        drivers = ["port_security", "dns", *(["qos"] if "qos" in self.more_plugins else [])]
        cfg.CONF.set_override("extension_drivers", drivers, "ml2")
        super().setUp("ml2", [self.l3_plugin, "flavors", "revisions", "tag", *self.more_plugins, "astara"])
        cfg.CONF.set_override("dns_domain", "cloud.example.")
        policy.reset()
        default_policies.reload_default_policies()
        policy.init(suppress_deprecation_warnings=True)
        cfg.CONF.set_override("change_margin", 0, "astara")
        with db_api.CONTEXT_WRITER.using(context.get_admin_context()) as session:
            # As the migrations leave it.
            session.add(models.Change(kind="begin", object_id="", created_at=dt.datetime(2026, 1, 1)))  # noqa: DTZ001

    def answer_as_extensions(self) -> None:
        """From now on, as a server whose pipeline has the filter `extensions`; what needs none is not there."""
        self.api = test_extensions.setup_extensions_middleware(extensions.PluginAwareExtensionManager.get_instance())

    def call(self, method: str, path: str, body: Any = None, caller: Any = None) -> webob.Response:
        raw = None if body is None else json.dumps(body).encode()
        request = webob.Request.blank(path, method=method, body=raw, content_type="application/json")
        request.environ["neutron.context"] = caller or admin()
        return request.get_response(self.api)

    def done(self, method: str, path: str, body: Any = None, caller: Any = None) -> Json:
        answer = self.call(method, path, body, caller)
        assert answer.status_int < 300, answer.text
        return answer.json if answer.body else {}

    def made(self, kind: str, under: str = "", **values: Any) -> Json:
        plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
        one: Json = self.done("POST", f"{under}/{plural.replace('_', '-') if under else plural}", {kind: values})
        found: Json = one[kind]
        return found

    def changed(self, kind: str, one: Json, **values: Any) -> Json:
        found: Json = self.done("PUT", f"/{kind}s/{one['id']}", {kind: values})[kind]
        return found

    def network(self, cidr: str, **values: Any) -> tuple[Json, Json]:
        network = self.made("network", name="net", project_id="tenant", **values)
        version = 6 if ":" in cidr else 4
        subnet = self.made("subnet", network_id=network["id"], project_id="tenant", ip_version=version, cidr=cidr)
        return network, subnet

    def router(self, *subnets: Json, gateway: Json | None = None, **values: Any) -> Json:
        info = {"external_gateway_info": {"network_id": gateway["id"]}} if gateway else {}
        made = self.made("router", name="router", project_id="tenant", **info, **values)
        for subnet in subnets:
            self.done("PUT", f"/routers/{made['id']}/add_router_interface", {"subnet_id": subnet["id"]})
        return made

    def snapshot(self, router: Json, instance: str = "") -> Json:
        query = f"?instance={instance}" if instance else ""
        found: Json = self.done("GET", f"{SNAPSHOTS}/{router['id']}{query}")["router_snapshot"]
        return found

    def listing(self, query: str = "") -> Json:
        return self.done("GET", f"{SNAPSHOTS}?{query}")

    def revision(self) -> int:
        return int(self.listing("limit=1&fields=id")["revision"])

    def since(self, revision: int) -> list[str]:
        """Ids of the routers that something changed of."""
        return [one["id"] for one in self.listing(f"changed_since={revision}&fields=id")["router_snapshots"]]

    def announced(self) -> dict[str, Json]:
        """What the feed tells now, by router."""
        fake_notifier.reset()
        directory.get_plugin("ASTARA").feed.flush()
        told = [one["payload"]["router_changes"] for one in fake_notifier.NOTIFICATIONS if one["event_type"] == EVENT]
        return {change["id"]: change for changes in told for change in changes}

    def log(self) -> list[models.Change]:
        with db_api.CONTEXT_READER.using(context.get_admin_context()) as session:
            return list(session.query(models.Change).order_by(models.Change.id))

    def statements(self) -> list[str]:
        """What the database is asked from now on."""
        asked: list[str] = []
        engine = db_api.CONTEXT_WRITER.get_engine()

        def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            asked.append(statement)

        event.listen(engine, "before_cursor_execute", note)
        self.addCleanup(event.remove, engine, "before_cursor_execute", note)
        return asked
