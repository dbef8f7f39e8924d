"""Neutron's API on ML2 and SQLite with its router plugin or ours, and the flavors that hand routers to Astara."""

import json
from typing import Any, ClassVar
from unittest import mock

import webob
from astara_neutron import options  # noqa: F401 - registers them
from astara_neutron.db import models  # noqa: F401 - known before the schema is made
from neutron import policy
from neutron.api import extensions
from neutron.conf import policies as default_policies
from neutron.conf.services import provider_configuration
from neutron.db import servicetype_db
from neutron.db.models import flavor as flavor_models
from neutron.db.models import servicetype
from neutron.tests.common import test_db_base_plugin_v2 as neutron_base
from neutron_lib import context
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from oslo_config import cfg

PROVIDER = "astara_neutron.provider.AstaraRouterProvider"
AGENTS_PROVIDER = "neutron.services.l3_router.service_providers.single_node.SingleNodeDriver"

Json = dict[str, Any]


class RouterTestCase(neutron_base.NeutronDbPluginV2TestCase):
    l3_plugin: ClassVar[str] = "astara-router"
    more_plugins: ClassVar[list[str]] = []
    providers: ClassVar[list[str]] = []
    """Values of `service_provider` in Neutron's configuration."""
    extension_drivers: ClassVar[list[str]] = ["dns"]
    """Those of ML2, beside port security's."""
    configured: ClassVar[dict[str, Any]] = {}
    """Options of section [DEFAULT]."""

    def setUp(self) -> None:
        mock.patch("neutron.plugins.ml2.ovo_rpc.OVOServerRpcInterface").start()
        # Neutron keeps one for the whole process, with the providers of the test before.
        mock.patch.object(servicetype_db.ServiceTypeManager, "_instance", None).start()
        provider_configuration.register_service_provider_opts()
        cfg.CONF.import_group("ml2", "neutron.plugins.ml2.plugin")
        cfg.CONF.set_override("mechanism_drivers", ["logger"], "ml2")
        cfg.CONF.set_override("type_drivers", ["local"], "ml2")
        cfg.CONF.set_override("extension_drivers", ["port_security", *self.extension_drivers], "ml2")
        providers = [f"L3_ROUTER_NAT:{one}" for one in self.providers]
        cfg.CONF.set_override("service_provider", providers, "service_providers")
        for name, value in self.configured.items():
            cfg.CONF.set_override(name, value)
        self.start()

    def start(self) -> None:
        """Neutron, as it is configured."""
        super().setUp("ml2", [self.l3_plugin, "flavors", *self.more_plugins])
        self.api = extensions.plugin_aware_extension_middleware_factory({})(self.api)
        policy.reset()
        default_policies.reload_default_policies()
        policy.init(suppress_deprecation_warnings=True)

    def call(self, method: str, path: str, body: Any = None) -> webob.Response:
        raw = None if body is None else json.dumps(body).encode()
        request = webob.Request.blank(path, method=method, body=raw, content_type="application/json")
        request.environ["neutron.context"] = context.Context("operator", "admin", roles=["admin", "member", "reader"])
        return request.get_response(self.api)

    def done(self, method: str, path: str, body: Any = None) -> Json:
        answer = self.call(method, path, body)
        assert answer.status_int < 300, answer.text
        return answer.json if answer.body else {}

    def refused(self, status: int, method: str, path: str, body: Any) -> str:
        """The message of a call that must not be obeyed."""
        answer = self.call(method, path, body)
        assert answer.status_int == status, (answer.status_int, answer.text)
        message: str = answer.json["NeutronError"]["message"]
        return message

    def made(self, kind: str, under: str = "", **values: Any) -> Json:
        found: Json = self.done("POST", f"{under}/{kind}s", {kind: {"project_id": "tenant", **values}})[kind]
        return found

    def router(self, **values: Any) -> Json:
        return self.made("router", name="router", **values)

    def router_refused(self, status: int, **values: Any) -> str:
        return self.refused(
            status, "POST", "/routers", {"router": {"name": "router", "project_id": "tenant", **values}}
        )

    def flavor(self, profile: str = "", *, name: str = "astara", driver: str = PROVIDER, enabled: bool = True) -> str:
        """Id of a router flavor whose service profile has this `metainfo`."""
        body = {"name": name, "service_type": "L3_ROUTER_NAT", "enabled": enabled}
        flavor: str = self.done("POST", "/flavors", {"flavor": body})["flavor"]["id"]
        self.profile(flavor, driver=driver, metainfo=profile)
        return flavor

    def profile(self, flavor: str, **values: Any) -> str:
        """Id of a service profile that this flavor gets."""
        info = {"driver": PROVIDER, "description": "of the test", **values}
        made: str = self.done("POST", "/service_profiles", {"service_profile": info})["service_profile"]["id"]
        self.done("POST", f"/flavors/{flavor}/service_profiles", {"service_profile": {"id": made}})
        return made

    def without_provider(self) -> dict[str, str]:
        """Names of flavors that cannot give a router a provider, each with what is wrong with it."""
        for name in ("bare", "disabled", "unconfigured"):
            body = {"name": name, "service_type": "L3_ROUTER_NAT", "enabled": True}
            flavor = self.done("POST", "/flavors", {"flavor": body})["flavor"]["id"]
            if name == "disabled":
                self.profile(flavor, enabled=False)
            elif name == "unconfigured":
                profile = self.profile(flavor)
                with db_api.CONTEXT_WRITER.using(context.get_admin_context()) as session:
                    session.query(flavor_models.ServiceProfile).filter_by(id=profile).update({"driver": "gone"})
        return {
            "bare": "has no service profile",
            "disabled": "has a service profile that is disabled",
            "unconfigured": "has a service profile whose driver is not in [service_providers]",
        }

    def network(self, cidr: str, *, external: bool = False) -> tuple[Json, Json]:
        network = self.made("network", name="net", **({"router:external": True} if external else {}))
        subnet = self.made("subnet", network_id=network["id"], ip_version=6 if ":" in cidr else 4, cidr=cidr)
        return network, subnet

    def keeps_the_address_of_an_interface(self, router: Json) -> None:
        """Whether Neutron refuses to change it, and takes prefixes of IPv6 to it and from it all the same."""
        network, subnet = self.network("10.0.0.0/24")
        action = f"/routers/{router['id']}/%s_router_interface"
        port_id = self.done("PUT", action % "add", {"subnet_id": subnet["id"]})["port_id"]
        path = f"/ports/{port_id}"
        before = self.done("GET", path)["port"]["fixed_ips"]
        for wanted in ([{"subnet_id": subnet["id"], "ip_address": "10.0.0.99"}], []):
            message = self.refused(400, "PUT", path, {"port": {"fixed_ips": wanted}})
            assert message == f"Bad ports request: IP updates for port {port_id} are not allowed."
        self.done("PUT", path, {"port": {"fixed_ips": before, "description": "as it was"}})
        assert self.done("GET", path)["port"]["fixed_ips"] == before
        prefixes = [
            self.made("subnet", network_id=network["id"], ip_version=6, cidr=cidr)
            for cidr in ("2001:db8:1::/64", "2001:db8:2::/64")
        ]
        taken = {self.done("PUT", action % "add", {"subnet_id": one["id"]})["port_id"] for one in prefixes}
        assert len(taken) == 1
        self.done("PUT", action % "remove", {"subnet_id": prefixes[0]["id"]})
        self.done("PUT", f"/ports/{taken.pop()}", {"port": {"fixed_ips": []}})

    def provider_of(self, router: Json) -> str | None:
        """As Neutron has recorded it."""
        manager = servicetype_db.ServiceTypeManager.get_instance()
        names = manager.get_provider_names_by_resource_ids(context.get_admin_context(), [router["id"]])
        name: str | None = names.get(router["id"])
        return name

    def record_provider(self, router: Json, provider: str) -> None:
        """What Neutron recorded under another configuration."""
        admin = context.get_admin_context()
        with db_api.CONTEXT_WRITER.using(admin) as session:
            (row,) = session.query(servicetype.ProviderResourceAssociation).filter_by(resource_id=router["id"])
            row.provider_name = provider

    def ha_networks(self) -> list[str]:
        """What Neutron makes for routers of agents that are highly available."""
        names = [one["name"] for one in self.done("GET", "/networks")["networks"]]
        return [name for name in names if name.startswith("HA network")]

    def status_is(self, kind: str, one: Json, status: str) -> None:
        """What the orchestrator would have told."""
        plugin = directory.get_plugin("L3_ROUTER_NAT")
        caller = context.get_admin_context()
        with db_api.CONTEXT_WRITER.using(caller):
            if kind == "floatingip":
                plugin.update_floatingip_status(caller, one["id"], status)
            else:
                plugin._get_router(caller, one["id"]).status = status

    def shown(self, kind: str, one: Json) -> Json:
        found: Json = self.done("GET", f"/{kind}s/{one['id']}")[kind]
        return found
