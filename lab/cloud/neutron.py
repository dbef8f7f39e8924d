"""Neutron v2.0: the collections wired to each other, and the calls that belong to none of them.

The real service is the measure: names, errors and revisions follow Neutron 29 with ML2 and the reference router
plugin.
"""

import random
from typing import Any

from .neutron_astara import ALIASES, COMPANIONS, AstaraExtensions
from .neutron_base import Collection, forbidden
from .neutron_extras import (
    Flavors,
    MeteringLabelRules,
    MeteringLabels,
    flavors_table,
    label_rules_table,
    labels_table,
)
from .neutron_floatingips import FloatingIps, floatingips_table
from .neutron_forwardings import PortForwardings, forwardings_table
from .neutron_groups import SecurityGroupRules, SecurityGroups, groups_table, rules_table
from .neutron_networks import Networks, Subnets, networks_table, subnets_table
from .neutron_ports import Ports, ports_table
from .neutron_routers import Routers, routers_table
from .notifications import Notifications
from .options import CloudOptions
from .web import Call, CloudError, Context, Reply, Routes

EXTENSIONS = (
    "agent", "allowed-address-pairs", "availability_zone", "binding", "default-subnetpools", "ext-gw-mode",
    "expose-port-forwarding-in-fip", "external-net", "extra_dhcp_opt", "extraroute", "extraroute-atomic",
    "filter-validation", "fip-port-details", "flavors", "floating-ip-port-forwarding",
    "floating-ip-port-forwarding-description", "floating-ip-port-forwarding-port-ranges", "l3-flavors", "metering",
    "multi-provider", "net-mtu", "net-mtu-writable", "pagination",
    "port-security", "project-id", "provider", "quotas", "quota_details", "revision-if-match", "router",
    "router_availability_zone", "security-group", "service-type", "sorting", "standard-attr-description",
    "standard-attr-revisions", "standard-attr-tag", "standard-attr-timestamp", "subnet_allocation",
)  # fmt: skip
SEGMENTS = ("segment", "ip_allocation")
UNLIMITED = (
    "network", "subnet", "subnetpool", "port", "router", "floatingip", "security_group", "security_group_rule",
)  # fmt: skip


class NetworkService:
    """The network service; its collections are public, for Nova, for seeds and for tests."""

    def __init__(self, options: CloudOptions, notifications: Notifications, dice: random.Random) -> None:
        self._options = options
        self._notifications = notifications
        self._quotas: dict[str, dict[str, int]] = {}
        common = (options, notifications)
        self.networks = Networks(*common, networks_table())
        self.subnets = Subnets(*common, subnets_table())
        self.ports = Ports(*common, ports_table(), dice=dice)
        self.routers = Routers(*common, routers_table())
        self.floatingips = FloatingIps(*common, floatingips_table())
        self.forwardings = PortForwardings(*common, forwardings_table())
        self.groups = SecurityGroups(*common, groups_table())
        self.rules = SecurityGroupRules(*common, rules_table())
        self.labels = MeteringLabels(*common, labels_table())
        self.label_rules = MeteringLabelRules(*common, label_rules_table())
        self.flavors = Flavors(*common, flavors_table())
        self._wire()
        self.collections: dict[str, Collection] = {
            one.plural: one
            for one in (
                self.networks, self.subnets, self.ports, self.routers, self.floatingips, self.groups, self.rules,
                self.labels, self.label_rules, self.flavors,
            )
        }  # fmt: skip
        for collection in self.collections.values():
            collection.quota = self._check_quota
        self.astara = AstaraExtensions(self)
        self.ports.qos_policies = self.astara.qos_policies
        self.agents: list[dict[str, Any]] = [self._l2_agent()]

    def _wire(self) -> None:
        self.networks.subnets, self.networks.ports = self.subnets, self.ports
        self.subnets.networks, self.subnets.ports = self.networks, self.ports
        self.ports.networks, self.ports.subnets = self.networks, self.subnets
        self.ports.groups, self.ports.floatingips = self.groups, self.floatingips
        self.routers.networks, self.routers.subnets = self.networks, self.subnets
        self.routers.ports, self.routers.floatingips = self.ports, self.floatingips
        self.floatingips.networks, self.floatingips.ports = self.networks, self.ports
        self.floatingips.routers, self.routers.flavors = self.routers, self.flavors
        self.floatingips.forwardings, self.forwardings.floatingips = self.forwardings, self.floatingips
        self.groups.rules, self.groups.ports = self.rules, self.ports
        self.rules.groups = self.groups
        self.labels.rules, self.label_rules.labels = self.label_rules, self.labels

    def routes(self) -> Routes:
        """All calls of the service."""
        routes = Routes()
        routes.add("GET", "/", self._versions, public=True)
        routes.add("GET", "/v2.0", self._resources)
        for collection in self.collections.values():
            collection.routes(routes)
            base = f"/v2.0/{collection.path or collection.plural}/{{id}}/tags"
            routes.add("GET", base, lambda call, one=collection: self._tags(call, one))  # type: ignore[misc]
            routes.add("PUT", base, lambda call, one=collection: self._set_tags(call, one))  # type: ignore[misc]
            routes.add("PUT", f"{base}/{{tag}}", lambda call, one=collection: self._add_tag(call, one))  # type: ignore[misc]
        self.forwardings.routes(routes)
        if self._options.plugin:
            self.astara.routes(routes)
        routes.add("GET", "/v2.0/extensions", self._extensions)
        routes.add("GET", "/v2.0/extensions/{alias}", self._extension)
        routes.add("GET", "/v2.0/quotas/{project}", self._show_quota)
        routes.add("GET", "/v2.0/quotas/{project}/details", self._quota_details)
        routes.add("GET", "/v2.0/quotas/{project}/default", lambda _: Reply({"quota": _default_quota()}))
        routes.add("PUT", "/v2.0/quotas/{project}", self._set_quota)
        routes.add("DELETE", "/v2.0/quotas/{project}", self._reset_quota)
        routes.add("GET", "/v2.0/agents", self._list_agents)
        for empty in ("availability_zones", "rbac-policies", "subnetpools", "address-groups", "segments"):
            routes.add("GET", f"/v2.0/{empty}", lambda _, key=empty: Reply({key.replace("-", "_"): []}))  # type: ignore[misc]
        providers = [{"service_type": "L3_ROUTER_NAT", "name": "single_node", "default": False}]
        routes.add("GET", "/v2.0/service-providers", lambda _: Reply({"service_providers": providers}))
        return routes

    def quota(self, project: str) -> dict[str, int]:
        """The limits of a project; -1 for none."""
        return _default_quota() | self._quotas.get(project, {})

    def _check_quota(self, name: str, project: str) -> None:
        limit = self.quota(project).get(name, -1)
        if limit < 0:
            return
        if self._used(name, project) >= limit:
            raise CloudError(409, "OverQuota", f"Quota exceeded for resources: ['{name}'].")

    def _used(self, name: str, project: str) -> int:
        for collection in self.collections.values():
            if collection.name == name:
                return collection.table.count("project_id", project)
        return 0

    def _versions(self, call: Call) -> Reply:
        link = {"rel": "self", "href": f"{call.base_url}/v2.0/"}
        return Reply({"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]})

    def _resources(self, call: Call) -> Reply:
        return Reply(
            {
                "resources": [
                    {
                        "name": one.name, "collection": one.plural,
                        "links": [{"rel": "self", "href": f"{call.base_url}/v2.0/{one.path or one.plural}"}],
                    }
                    for one in self.collections.values()
                ]
            }
        )  # fmt: skip

    def _aliases(self) -> tuple[str, ...]:
        more = SEGMENTS if self._options.segments else ()
        if self._options.plugin:
            more = tuple({*more, *(ALIASES if self.astara.is_installed else COMPANIONS), "ip_allocation"})
        return EXTENSIONS + more

    def _extensions(self, _call: Call) -> Reply:
        return Reply({"extensions": [_extension(alias) for alias in self._aliases()]})

    def _extension(self, call: Call) -> Reply:
        alias = call.variables[0]
        if alias not in self._aliases():
            raise CloudError(404, "HTTPNotFound", f"Extension with alias {alias} does not exist")
        return Reply({"extension": _extension(alias)})

    def _show_quota(self, call: Call) -> Reply:
        return Reply({"quota": self.quota(self._quota_project(call))})

    def _quota_details(self, call: Call) -> Reply:
        project = self._quota_project(call)
        details = {
            name: {"limit": limit, "used": self._used(name, project), "reserved": 0}
            for name, limit in self.quota(project).items()
        }
        return Reply({"quota": details})

    def _set_quota(self, call: Call) -> Reply:
        if not call.context.is_admin:
            raise forbidden("update_quota")
        project = call.variables[0]
        self._quotas.setdefault(project, {}).update({k: int(v) for k, v in call.json()["quota"].items()})
        return Reply({"quota": self.quota(project)})

    def _reset_quota(self, call: Call) -> Reply:
        if not call.context.is_admin:
            raise forbidden("delete_quota")
        self._quotas.pop(call.variables[0], None)
        return Reply(None, 204)

    @staticmethod
    def _quota_project(call: Call) -> str:
        project = call.variables[0]
        if project != call.context.project_id and not call.context.is_admin:
            raise forbidden("get_quota")
        return project

    def _list_agents(self, call: Call) -> Reply:
        if not call.context.is_admin:
            return Reply({"agents": []})
        now = self.networks.now().replace("T", " ").removesuffix("Z")
        wanted = call.query()
        agents = [{**agent, "heartbeat_timestamp": now} for agent in self.agents]
        return Reply({"agents": [one for one in agents if all(str(one.get(k, v)) == v for k, v in wanted)]})

    def _l2_agent(self) -> dict[str, Any]:
        now = self.networks.now().replace("T", " ").removesuffix("Z")
        return {
            "id": self._options.new_id(), "agent_type": "Open vSwitch agent", "binary": "neutron-openvswitch-agent",
            "topic": "N/A", "host": self._options.hostname, "admin_state_up": True, "created_at": now,
            "started_at": now, "heartbeat_timestamp": now, "description": None, "resources_synced": None,
            "availability_zone": None, "alive": True, "configurations": {"bridge_mappings": {"physnet1": "br-ex"}},
        }  # fmt: skip

    def _tags(self, call: Call, collection: Collection) -> Reply:
        return Reply({"tags": collection.find(call.context, call.variables[0])["tags"]})

    def _set_tags(self, call: Call, collection: Collection) -> Reply:
        return self._retag(call.context, collection, call.variables[0], list(call.json()["tags"]))

    def _add_tag(self, call: Call, collection: Collection) -> Reply:
        row = collection.find(call.context, call.variables[0])
        self._retag(call.context, collection, row["id"], sorted({*row["tags"], call.variables[1]}))
        return Reply(None, 201)

    def _retag(self, context: Context, collection: Collection, row_id: str, tags: list[str]) -> Reply:
        row = collection.writable(context, row_id)
        payload = {"obj_resource": collection.plural, "obj_resource_id": row_id, "tags": tags}
        self._notifications.network(context, "tag.update.start", payload)
        collection.table.change(row, {"tags": tags})
        collection.touch(row)
        self._notifications.network(context, "tag.update.end", payload)
        return Reply({"tags": tags})


def _extension(alias: str) -> dict[str, Any]:
    return {"alias": alias, "name": alias, "description": "", "updated": "2020-01-01T00:00:00-00:00", "links": []}


def _default_quota() -> dict[str, int]:
    return dict.fromkeys(UNLIMITED, -1) | {"router_route": 30, "rbac_policy": 10}
