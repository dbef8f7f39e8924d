"""Neutron's API over WSGI with the plugin `astara`, SQLite and ML2, and the people who call it."""

import json
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import webob
from astara_neutron.db import models  # noqa: F401 - known before the schema is made
from neutron import policy
from neutron.api import extensions
from neutron.conf import policies as default_policies
from neutron.tests.common import test_db_base_plugin_v2 as neutron_base
from neutron_lib import context
from neutron_lib.db import api as db_api
from oslo_config import cfg
from sqlalchemy import event

SERVICE_PROJECT, TENANT_PROJECT, OTHER_PROJECT = "service-project", "tenant-project", "other-project"
ROUTER = "7ee44f2f-3cbd-4b6d-9f1e-2b2b6f0f3d10"

Json = dict[str, Any]


def admin(user: str = "orchestrator", project: str = SERVICE_PROJECT) -> context.Context:
    return context.Context(user, project, roles=["admin", "member", "reader"])


def member(project: str = TENANT_PROJECT, *roles: str, user: str = "somebody") -> context.Context:
    return context.Context(user, project, roles=[*roles, "member", "reader"])


def mark(role: str, router: str = ROUTER, slot: int = 0) -> str:
    return f"astara:astara:{router}:{slot}:{role}"


class Answer:
    def __init__(self, response: webob.Response) -> None:
        self.status: int = response.status_int
        self.body: Json = json.loads(response.body) if response.body else {}

    @property
    def message(self) -> str:
        return str(self.body["NeutronError"]["message"])


class AstaraTestCase(neutron_base.NeutronDbPluginV2TestCase):
    l3_plugin: ClassVar[str] = "astara-router"
    more_plugins: ClassVar[list[str]] = []
    extension_drivers: ClassVar[list[str]] = ["port_security"]

    def setUp(self) -> None:
        mock.patch("neutron.plugins.ml2.ovo_rpc.OVOServerRpcInterface").start()
        # Its thread would share SQLite's one connection.
        mock.patch("astara_neutron.feed.Feed.put").start()
        cfg.CONF.import_group("ml2", "neutron.plugins.ml2.plugin")
        cfg.CONF.set_override("mechanism_drivers", ["logger"], "ml2")
        cfg.CONF.set_override("type_drivers", ["local"], "ml2")
        cfg.CONF.set_override("extension_drivers", self.extension_drivers, "ml2")
        super().setUp("ml2", [self.l3_plugin, "flavors", "revisions", *self.more_plugins, "astara"])
        # As Neutron's paste.ini has it: extensions' own resources are answered before the rest.
        self.api = extensions.plugin_aware_extension_middleware_factory({})(self.api)
        self.load_policy()

    def load_policy(self, **rules: str) -> None:
        """The defaults, and what an operator's file says."""
        if rules:
            path = self.get_temp_file_path("policy.yaml")
            Path(path).write_text(json.dumps(rules))
            cfg.CONF.set_override("policy_file", path, "oslo_policy")
        policy.reset()
        default_policies.reload_default_policies()
        policy.init(suppress_deprecation_warnings=True)

    def call(self, method: str, path: str, body: Any = None, caller: context.Context | None = None) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
        request = webob.Request.blank(path, method=method, body=raw, content_type="application/json")
        request.environ["neutron.context"] = caller or admin()
        return Answer(request.get_response(self.api))

    def made(self, kind: str, caller: context.Context | None = None, **values: Any) -> Json:
        answer = self.call("POST", f"/{kind}s", {kind: values}, caller)
        assert answer.status == 201, answer.body
        found: Json = answer.body[kind]
        return found

    def network(self, caller: context.Context | None = None, cidr: str = "10.0.0.0/24", **values: Any) -> Json:
        """With a subnet, `subnet`."""
        caller = caller or member()
        network = self.made("network", caller, name="net", **values)
        subnet = self.made("subnet", caller, network_id=network["id"], ip_version=4, cidr=cidr)
        return {**network, "subnet": subnet["id"]}

    def service_port(self, network: Json, router: str = ROUTER, **values: Any) -> Json:
        values = {"port_security_enabled": False, "security_groups": [], "fixed_ips": []} | values
        return self.made("port", network_id=network["id"], description=mark("svc", router), **values)

    def statements(self) -> list[str]:
        """What the database is asked from now on."""
        asked: list[str] = []
        engine = db_api.CONTEXT_WRITER.get_engine()

        def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            asked.append(statement)

        event.listen(engine, "before_cursor_execute", note)
        self.addCleanup(event.remove, engine, "before_cursor_execute", note)
        return asked
