"""What `astara-neutron` adds to Neutron's API: snapshots, status write-back, services in the list of agents.

docs/contracts.md is the measure. Revisions are found when somebody asks: a router counts as changed when its snapshot
is not what it was at the last look, which tells the same as the real thing's log of changes, later.
"""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import neutron_query
from .neutron_base import forbidden
from .store import Row
from .web import Call, CloudError, Handler, Reply, Routes

if TYPE_CHECKING:
    from .neutron import NetworkService

COMPANIONS = ("l3-conntrack-helper", "l3-ndp-proxy", "qos", "qos-fip", "qos-gateway-ip")
"""What routers may have that is not of `astara-neutron` itself."""
ALIASES = ("astara-router-snapshot", "astara-router-status", "astara-services", *COMPANIONS)

_ALLOCATION = ("id", "network_id", "device_id", "device_owner", "mac_address", "fixed_ips", "description", "dns_name",
               "admin_state_up", "extra_dhcp_opts", "revision_number")  # fmt: skip
_FILTERS = ("id", "router_id")
_HELPER = ("id", "protocol", "port", "helper")
_STATUSES = {
    "status": ("ACTIVE", "ALLOCATING", "ERROR"),
    "floating_ips": ("ACTIVE", "DOWN", "ERROR"),
    "ports": ("ACTIVE", "DOWN"),
}
_GATEWAY = "network:router_gateway"
_MOST = 500


class AstaraExtensions:
    """The three extensions over the collections of a network service."""

    def __init__(self, service: "NetworkService") -> None:
        self._service = service
        self._revision = 1
        self._seen: dict[str, tuple[str, int, str]] = {}  # digest, revision, project
        self._gone: dict[str, tuple[int, str]] = {}
        self.is_installed = True
        """A test may take the three extensions away, and put them back."""
        self.who_serves_dhcp = "appliance"
        """Or `neutron`."""
        self.services: dict[str, list[Row]] = {}
        """By deployment, as last reported."""
        self.conntrack_helpers: dict[str, list[Row]] = {}
        """By router, as `GET /routers/<id>/conntrack_helpers` shows them; a test puts them there."""
        self.ndp_proxies: dict[str, list[Row]] = {}
        """By router, as `GET /ndp_proxies` shows them."""
        self.qos_policies: dict[str, Row] = {}
        """By id, as `GET /qos/policies` shows them; a test puts them there."""

    def routes(self, routes: Routes) -> None:
        """The calls."""
        for method, path, handler in (
            ("GET", "/v2.0/astara-router-snapshots", self._list),
            ("GET", "/v2.0/astara-router-snapshots/{id}", self._show),
            ("PUT", "/v2.0/astara-router-statuses/{id}", self._set_status),
            ("PUT", "/v2.0/astara-services/{deployment}", self._set_services),
        ):
            routes.add(method, path, self._while_installed(handler))
        routes.add("GET", "/v2.0/routers/{id}/conntrack_helpers", self._list_helpers)
        routes.add("GET", "/v2.0/ndp_proxies", self._list_proxies)
        routes.add("GET", "/v2.0/qos/policies", self._list_policies)
        routes.add("POST", "/v2.0/qos/policies", self._create_policy)

    def _while_installed(self, handler: Handler) -> Handler:
        def handle(call: Call) -> Reply:
            if not self.is_installed:
                raise CloudError(404, "HTTPNotFound", "The resource could not be found.")
            return handler(call)

        return handle

    def _show(self, call: Call) -> Reply:
        _only_admins(call)
        router = self._service.routers.get(call.variables[0])
        self._note(router)
        instance = dict(call.query()).get("instance") if call.query_string else None
        return Reply({"router_snapshot": self.snapshot(router, instance) | {"revision": self._revision}})

    def _list(self, call: Call) -> Reply:
        _only_admins(call)
        self._look()
        query = call.query() if call.query_string else []
        asked = dict(query)
        since, limit = _number(asked, "changed_since", -1), _number(asked, "limit", 100)
        if not 1 <= limit <= _MOST:
            raise CloudError(400, "HTTPBadRequest", f"limit: a number from 1 to {_MOST} is expected")
        if since > self._revision:
            raise CloudError(410, "HTTPGone", f"changed_since: {since} was never told; list everything")
        fields = {value for key, value in query if key == "fields"} | {"id"}
        found: list[Row] = []
        for router_id in sorted({**self._seen, **(self._gone if since >= 0 else {})}):
            if router_id <= asked.get("marker", ""):
                continue
            if router_id in self._gone:
                revision, project = self._gone[router_id]
                row: Row = {"id": router_id, "project_id": project, "deleted": True}
            else:
                revision = self._seen[router_id][1]
                row = {}
            if revision <= since:
                continue
            if not row:
                whole = self.snapshot(self._service.routers.get(router_id), None) | {"revision": revision}
                row = {key: value for key, value in whole.items() if len(fields) == 1 or key in fields}
            found.append(row)
        body: dict[str, Any] = {"router_snapshots": found[:limit], "revision": self._revision}
        if len(found) > limit:
            href = f"{call.base_url}{call.path}?marker={found[limit - 1]['id']}"
            body["router_snapshots_links"] = [{"rel": "next", "href": href}]
        return Reply(body)

    def _list_helpers(self, call: Call) -> Reply:
        router = self._service.routers.find(call.context, call.variables[0])
        helpers = self.conntrack_helpers.get(router["id"], [])
        return Reply({"conntrack_helpers": [{key: one[key] for key in _HELPER} for one in helpers]})

    def _list_proxies(self, call: Call) -> Reply:
        proxies = [one for several in self.ndp_proxies.values() for one in several]
        return Reply({"ndp_proxies": _filtered(call, proxies)})

    def _list_policies(self, call: Call) -> Reply:
        return Reply({"policies": _filtered(call, self.qos_policies.values(), ("id", "name", "project_id"))})

    def _create_policy(self, call: Call) -> Reply:
        _only_admins(call)
        body = call.json().get("policy") or {}
        if not body.get("name"):
            raise CloudError(400, "HTTPBadRequest", "Failed to parse request. Required attribute 'name' not specified")
        made = {
            "id": self._service.ports.options.new_id(),
            "project_id": call.context.project_id,
            "description": "",
            "rules": [],
        } | body
        self.qos_policies[made["id"]] = made
        return Reply({"policy": made}, 201)

    def _look(self) -> None:
        """Count revisions of what changed since the last look."""
        routers = {str(row["id"]): row for row in self._service.routers.table}
        for row in routers.values():
            self._note(row)
        for one in self._seen.keys() - routers.keys():
            self._revision += 1
            self._gone[one] = (self._revision, self._seen.pop(one)[2])

    def _note(self, router: Row, *, counts: bool = True) -> None:
        """Look at one router; a change that does not count is ours."""
        digest = json.dumps(self.snapshot(router, None), sort_keys=True)
        before = self._seen.get(router["id"])
        if before is not None and before[0] == digest:
            return
        self._revision += counts
        revision = self._revision if counts or before is None else before[1]
        self._seen[router["id"]] = (digest, revision, str(router["project_id"]))

    def snapshot(self, router: Row, instance: str | None) -> Row:
        """A router's, without its revision; `instance` is the server whose ports it is to have."""
        service = self._service
        own = service.ports.table.find("device_id", router["id"])
        networks = sorted({port["network_id"] for port in own})
        internal = sorted({port["network_id"] for port in own if port["device_owner"] != _GATEWAY})
        plugged = service.ports.table.find("device_id", instance) if instance else []
        floating = service.floatingips.table.find("router_id", router["id"])
        labels = [row for row in service.labels.table if row["shared"] or row["project_id"] == router["project_id"]]
        policies = {one.get("qos_policy_id") for one in (router["external_gateway_info"] or {}, *floating)}
        return {
            "id": router["id"],
            "dhcp": self.who_serves_dhcp,
            "ha": router["ha"],
            "router": dict(router),
            "ports": [dict(port) for port in own],
            "instance_ports": [dict(port) for port in plugged],
            "networks": [dict(service.networks.get(one)) for one in networks],
            "subnets": [dict(row) for row in service.subnets.table.find("network_id", *networks)],
            "allocations": [
                {key: row.get(key) for key in _ALLOCATION} for row in service.ports.table.find("network_id", *internal)
            ],
            "floating_ips": [
                {**row, "port_forwardings": [dict(one) for one in service.forwardings.of(row["id"])]}
                for row in floating
            ],
            "conntrack_helpers": self.conntrack_helpers.get(router["id"], []),
            "ndp_proxies": self.ndp_proxies.get(router["id"], []),
            "metering_labels": [
                {**row, "rules": [dict(one) for one in service.label_rules.table.find("metering_label_id", row["id"])]}
                for row in labels
            ],
            "qos_policies": [one for key, one in sorted(self.qos_policies.items()) if key in policies],
        }

    def _set_status(self, call: Call) -> Reply:
        _only_admins(call)
        router = self._service.routers.get(call.variables[0])
        told = call.json().get("router_status")
        if not isinstance(told, dict):
            raise CloudError(400, "HTTPBadRequest", "router_status: an object is expected")
        if unknown := sorted(set(told) - {*_STATUSES, "reason"}):
            raise CloudError(400, "HTTPBadRequest", f"router_status.{unknown[0]}: unknown")
        if len(str(told.get("reason", ""))) > 1024:
            raise CloudError(400, "HTTPBadRequest", "router_status.reason: at most 1024 characters")
        if "status" in told:
            _check("status", told["status"])
        parts = {
            "floating_ips": self._service.floatingips.table.find("router_id", router["id"]),
            "ports": self._service.ports.table.find("device_id", router["id"]),
        }
        answer: Row = {}
        for name, rows in parts.items():
            wanted = told.get(name, {})
            for one in wanted.values():
                _check(name, one)
            if name in told:
                everyone = wanted.get("*")
                now = {row["id"]: wanted.get(row["id"], everyone) for row in rows}
                moved = {row["id"] for row in rows if now[row["id"]] not in (None, row["status"])}
                for row in rows:
                    row["status"] = now[row["id"]] or row["status"]
                answer[name] = {row["id"]: row["status"] for row in rows if row["id"] in moved | wanted.keys()}
        router["status"] = told.get("status", router["status"])
        router["status_reason"] = told.get("reason", router.get("status_reason", ""))
        self._note(router, counts=False)
        answer |= {"status": router["status"], "reason": router["status_reason"]}
        return Reply({"router_status": answer})

    def _set_services(self, call: Call) -> Reply:
        _only_admins(call)
        services = call.json().get("services")
        if not isinstance(services, list) or not all(isinstance(one, dict) and one.get("binary") for one in services):
            raise CloudError(400, "HTTPBadRequest", "services: a list of objects with binary and host is expected")
        self.services[call.variables[0]] = services
        return Reply({"services": services})


def _filtered(call: Call, rows: Iterable[Row], filters: tuple[str, ...] = _FILTERS) -> list[Row]:
    """Those that the query asks for."""
    return neutron_query.select(rows, neutron_query.parse(call.query(), filters, strict=True))


def _only_admins(call: Call) -> None:
    if not call.context.is_admin:
        raise forbidden("astara_orchestrator")


def _check(name: str, value: Any) -> None:
    if value not in _STATUSES[name]:
        raise CloudError(
            400, "HTTPBadRequest", f"router_status.{name}: one of {', '.join(_STATUSES[name])} is expected"
        )


def _number(asked: dict[str, str], name: str, otherwise: int) -> int:
    text = asked.get(name)
    if text is None:
        return otherwise
    if not text.isdecimal():
        raise CloudError(400, "HTTPBadRequest", f"{name}: a number is expected")
    return int(text)
