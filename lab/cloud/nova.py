"""Nova v2.1: the calls. What happens to servers over time is in `nova_servers`.

Answers follow the microversion that the caller names where callers notice: the flavor of a server is embedded from
2.47 on.
"""

import re
from typing import Any

from .nova_servers import Servers
from .options import CloudOptions
from .store import Row, Table
from .web import Call, CloudError, Context, Reply, Routes

LATEST = "2.96"
_UNLIMITED = {
    "cores": -1, "fixed_ips": -1, "floating_ips": -1, "injected_file_content_bytes": 10240,
    "injected_file_path_bytes": 255, "injected_files": 5, "instances": -1, "key_pairs": 100, "metadata_items": 128,
    "ram": -1, "security_group_rules": -1, "security_groups": -1, "server_group_members": 10, "server_groups": 10,
}  # fmt: skip
_MEMBER_HIDDEN = (
    "OS-EXT-SRV-ATTR:host", "OS-EXT-SRV-ATTR:hypervisor_hostname", "OS-EXT-SRV-ATTR:instance_name",
    "OS-EXT-SRV-ATTR:hostname", "OS-EXT-SRV-ATTR:user_data",
)  # fmt: skip


class ComputeService:
    """The compute service; `servers` carries them out."""

    def __init__(self, options: CloudOptions, servers: Servers, flavors: Table) -> None:
        self._options = options
        self.servers = servers
        self.flavors = flavors
        self.groups = Table("project_id")
        self.keypairs: dict[tuple[str, str], Row] = {}
        self._quotas: dict[str, dict[str, int]] = {}

    def add_flavor(self, name: str, *, ram: int, disk: int, vcpus: int) -> Row:
        """A new public flavor; `ram` in MB, `disk` in GB."""
        return self.flavors.add(
            {
                "id": self._options.new_id(), "name": name, "ram": ram, "disk": disk, "vcpus": vcpus, "swap": "",
                "OS-FLV-EXT-DATA:ephemeral": 0, "OS-FLV-DISABLED:disabled": False, "os-flavor-access:is_public": True,
                "rxtx_factor": 1.0,
            }
        )  # fmt: skip

    def quota(self, project: str) -> dict[str, int]:
        """The limits of a project; -1 for none."""
        return _UNLIMITED | self._quotas.get(project, {})

    def routes(self) -> Routes:
        """All calls of the service."""
        routes = Routes()
        routes.add("GET", "/", lambda call: Reply({"versions": [_version(call.base_url)]}), public=True)
        routes.add("GET", "/v2.1", lambda call: Reply({"version": _version(call.base_url)}), public=True)
        servers = "/v2.1/servers"
        for method, pattern, handler in (
            ("GET", servers, self._list),
            ("GET", f"{servers}/detail", self._list_detail),
            ("POST", servers, self._create),
            ("GET", f"{servers}/{{id}}", self._show),
            ("PUT", f"{servers}/{{id}}", self._rename),
            ("DELETE", f"{servers}/{{id}}", self._delete),
            ("POST", f"{servers}/{{id}}/action", self._act),
            ("GET", f"{servers}/{{id}}/metadata", self._metadata),
            ("POST", f"{servers}/{{id}}/metadata", self._set_metadata),
            ("PUT", f"{servers}/{{id}}/metadata", self._replace_metadata),
            ("DELETE", f"{servers}/{{id}}/metadata/{{key}}", self._drop_metadata),
            ("GET", f"{servers}/{{id}}/os-interface", self._interfaces),
            ("POST", f"{servers}/{{id}}/os-interface", self._attach),
            ("GET", f"{servers}/{{id}}/os-interface/{{port}}", self._interface),
            ("DELETE", f"{servers}/{{id}}/os-interface/{{port}}", self._detach),
            ("GET", f"{servers}/{{id}}/os-volume_attachments", lambda _: Reply({"volumeAttachments": []})),
            ("GET", f"{servers}/{{id}}/tags", lambda _: Reply({"tags": []})),
            ("GET", "/v2.1/flavors", self._list_flavors),
            ("GET", "/v2.1/flavors/detail", self._list_flavors),
            ("POST", "/v2.1/flavors", self._create_flavor),
            ("GET", "/v2.1/flavors/{id}", self._show_flavor),
            ("GET", "/v2.1/flavors/{id}/os-extra_specs", lambda _: Reply({"extra_specs": {}})),
            ("GET", "/v2.1/limits", self._limits),
            ("GET", "/v2.1/os-quota-sets/{project}", self._show_quota),
            ("GET", "/v2.1/os-quota-sets/{project}/defaults", self._show_quota),
            ("GET", "/v2.1/os-quota-sets/{project}/detail", self._quota_detail),
            ("PUT", "/v2.1/os-quota-sets/{project}", self._set_quota),
            ("GET", "/v2.1/os-server-groups", self._list_groups),
            ("POST", "/v2.1/os-server-groups", self._create_group),
            ("GET", "/v2.1/os-server-groups/{id}", self._show_group),
            ("DELETE", "/v2.1/os-server-groups/{id}", self._delete_group),
            ("GET", "/v2.1/os-keypairs", self._list_keypairs),
            ("POST", "/v2.1/os-keypairs", self._create_keypair),
            ("DELETE", "/v2.1/os-keypairs/{name}", self._delete_keypair),
            ("GET", "/v2.1/os-availability-zone", self._zones),
            ("GET", "/v2.1/os-services", self._services),
            ("GET", "/v2.1/extensions", lambda _: Reply({"extensions": []})),
        ):
            routes.add(method, pattern, handler)
        return routes

    # Servers

    def _find(self, call: Call) -> Row:
        server = self.servers.table.get(call.variables[0])
        if server is None or not (call.context.is_admin or server["tenant_id"] == call.context.project_id):
            raise CloudError(404, "itemNotFound", f"Instance {call.variables[0]} could not be found.")
        return server

    def _create(self, call: Call) -> Reply:
        body = call.json()
        wanted = body.get("server")
        if not isinstance(wanted, dict) or "name" not in wanted or "flavorRef" not in wanted:
            raise CloudError(400, "badRequest", "Invalid input for field/attribute server.")
        limit = self.quota(call.context.project_id)["instances"]
        if 0 <= limit <= self.servers.table.count("tenant_id", call.context.project_id):
            raise CloudError(403, "forbidden", f"Quota exceeded for instances: Requested 1, but already used {limit}")
        key = wanted.get("key_name")
        if key and (call.context.user_id, key) not in self.keypairs:
            raise CloudError(400, "badRequest", f"Keypair {key} not found for user {call.context.user_id}")
        server = self.servers.create(call.context, wanted)
        link = {"rel": "self", "href": f"{call.base_url}/v2.1/servers/{server['id']}"}
        shown = {
            "id": server["id"], "links": [link], "OS-DCF:diskConfig": "MANUAL",
            "security_groups": [{"name": "default"}], "adminPass": server["id"][:12],
        }  # fmt: skip
        return Reply({"server": shown}, 202)

    def _list(self, call: Call) -> Reply:
        rows, links = self._page(call)
        shown = [{"id": row["id"], "name": row["name"], "links": _links(call, row["id"])} for row in rows]
        return Reply({"servers": shown} | links)

    def _list_detail(self, call: Call) -> Reply:
        rows, links = self._page(call)
        return Reply({"servers": [self._view(call, row) for row in rows]} | links)

    def _page(self, call: Call) -> tuple[list[Row], Row]:
        query = dict(call.query())
        context = call.context
        everybody = query.pop("all_tenants", "").lower() in ("1", "true") or (
            "all_projects" in query and query.pop("all_projects").lower() in ("1", "true")
        )
        if everybody and not context.is_admin:
            raise CloudError(403, "forbidden", "Policy doesn't allow os_compute_api:servers:index:get_all_tenants")
        project = query.get("project_id") or query.get("tenant_id")
        if everybody and context.is_admin:
            rows = self.servers.table.find("tenant_id", project) if project else list(self.servers.table)
        else:
            rows = self.servers.table.find("tenant_id", context.project_id)
        try:
            rows = [row for row in rows if _fits(row, query)]
        except re.error as error:
            raise CloudError(400, "badRequest", f"Invalid regular expression: {error}") from error
        rows.sort(key=lambda row: (row["created"], row["id"]), reverse=True)
        return _cut(call, rows, query)

    def _show(self, call: Call) -> Reply:
        return Reply({"server": self._view(call, self._find(call))})

    def _rename(self, call: Call) -> Reply:
        server = self._find(call)
        self.servers.table.change(server, {"name": call.json()["server"].get("name", server["name"])})
        return Reply({"server": self._view(call, server)})

    def _delete(self, call: Call) -> Reply:
        self.servers.delete(call.context, self._find(call))
        return Reply(None, 204)

    def _act(self, call: Call) -> Reply:
        server = self._find(call)
        body = call.json()
        if "reboot" in body:
            self.servers.reboot(call.context, server)
            return Reply(None, 202)
        if "os-getConsoleOutput" in body:
            return Reply({"output": self.servers.console(server)})
        if "os-start" in body or "os-stop" in body:
            self.servers.power(call.context, server, on="os-start" in body)
            return Reply(None, 202)
        if "os-resetState" in body:
            if not call.context.is_admin:
                raise CloudError(403, "forbidden", "Policy doesn't allow os_compute_api:os-admin-actions:reset_state")
            self.servers.reset_state(server, str(body["os-resetState"]["state"]))
            return Reply(None, 202)
        raise CloudError(400, "badRequest", f"There is no such action: {', '.join(body)}")

    def _metadata(self, call: Call) -> Reply:
        return Reply({"metadata": self._find(call)["metadata"]})

    def _set_metadata(self, call: Call) -> Reply:
        server = self._find(call)
        self.servers.set_metadata(call.context, server, {**server["metadata"], **call.json()["metadata"]})
        return Reply({"metadata": server["metadata"]})

    def _replace_metadata(self, call: Call) -> Reply:
        server = self._find(call)
        self.servers.set_metadata(call.context, server, call.json()["metadata"])
        return Reply({"metadata": server["metadata"]})

    def _drop_metadata(self, call: Call) -> Reply:
        server, key = self._find(call), call.variables[1]
        if key not in server["metadata"]:
            raise CloudError(404, "itemNotFound", "Metadata item was not found")
        rest = {name: value for name, value in server["metadata"].items() if name != key}
        self.servers.set_metadata(call.context, server, rest)
        return Reply(None, 204)

    def _view(self, call: Call, server: Row) -> Row:
        shown = {**server, "links": _links(call, server["id"])}
        del shown["launched_by"]
        if _microversion(call) < (2, 47):
            flavor_id = self._flavor_id(server)
            link = {"rel": "bookmark", "href": f"{call.base_url}/flavors/{flavor_id}"}
            shown["flavor"] = {"id": flavor_id, "links": [link]}
        if not call.context.is_admin:
            for key in _MEMBER_HIDDEN:
                shown.pop(key, None)
        return shown

    def _flavor_id(self, server: Row) -> str:
        found = self.flavors.find("name", server["flavor"]["original_name"])
        return str(found[0]["id"]) if found else ""

    # Interfaces

    def _interfaces(self, call: Call) -> Reply:
        ports = self.servers.ports_of(self._find(call))
        return Reply({"interfaceAttachments": [_attachment(port) for port in ports]})

    def _interface(self, call: Call) -> Reply:
        for port in self.servers.ports_of(self._find(call)):
            if port["id"] == call.variables[1]:
                return Reply({"interfaceAttachment": _attachment(port)})
        raise CloudError(404, "itemNotFound", f"Port id {call.variables[1]} could not be found.")

    def _attach(self, call: Call) -> Reply:
        wanted = call.json().get("interfaceAttachment") or {}
        return Reply({"interfaceAttachment": _attachment(self.servers.attach(call.context, self._find(call), wanted))})

    def _detach(self, call: Call) -> Reply:
        self.servers.detach(call.context, self._find(call), call.variables[1])
        return Reply(None, 202)

    # Flavors, limits, groups, keys

    def _list_flavors(self, _call: Call) -> Reply:
        return Reply({"flavors": [{**row, "links": []} for row in self.flavors]})

    def _show_flavor(self, call: Call) -> Reply:
        row = self.flavors.get(call.variables[0])
        if row is None:
            raise CloudError(404, "itemNotFound", f"Flavor {call.variables[0]} could not be found.")
        more: Row = {"extra_specs": {}, "description": None} if _microversion(call) >= (2, 61) else {}
        return Reply({"flavor": {**row, "links": [], **more}})

    def _create_flavor(self, call: Call) -> Reply:
        _admin(call.context)
        body = call.json()["flavor"]
        if self.flavors.find("name", body["name"]):
            raise CloudError(409, "conflictingRequest", f"Flavor with name {body['name']} already exists.")
        row = self.add_flavor(body["name"], ram=int(body["ram"]), disk=int(body["disk"]), vcpus=int(body["vcpus"]))
        return Reply({"flavor": {**row, "links": []}})

    def _limits(self, call: Call) -> Reply:
        project = dict(call.query()).get("tenant_id", call.context.project_id)
        quota = self.quota(project)
        rows = self.servers.table.find("tenant_id", project)
        absolute = {
            "maxTotalInstances": quota["instances"], "maxTotalCores": quota["cores"], "maxTotalRAMSize": quota["ram"],
            "maxServerMeta": 128, "maxTotalKeypairs": 100, "maxServerGroups": 10, "maxServerGroupMembers": 10,
            "totalInstancesUsed": len(rows), "totalServerGroupsUsed": 0,
            "totalCoresUsed": sum(row["flavor"]["vcpus"] for row in rows),
            "totalRAMUsed": sum(row["flavor"]["ram"] for row in rows),
        }  # fmt: skip
        return Reply({"limits": {"rate": [], "absolute": absolute}})

    def _show_quota(self, call: Call) -> Reply:
        return Reply({"quota_set": {"id": call.variables[0], **self.quota(call.variables[0])}})

    def _quota_detail(self, call: Call) -> Reply:
        project = call.variables[0]
        used = {"instances": self.servers.table.count("tenant_id", project)}
        details = {
            name: {"limit": limit, "in_use": used.get(name, 0), "reserved": 0}
            for name, limit in self.quota(project).items()
        }
        return Reply({"quota_set": {"id": project, **details}})

    def _set_quota(self, call: Call) -> Reply:
        _admin(call.context)
        project = call.variables[0]
        changes = {key: int(value) for key, value in call.json()["quota_set"].items() if key in _UNLIMITED}
        self._quotas.setdefault(project, {}).update(changes)
        return Reply({"quota_set": self.quota(project)})

    def _list_groups(self, call: Call) -> Reply:
        return Reply({"server_groups": self.groups.find("project_id", call.context.project_id)})

    def _create_group(self, call: Call) -> Reply:
        body = call.json()["server_group"]
        policy = body.get("policy") or next(iter(body.get("policies", ["anti-affinity"])))
        row = {
            "id": self._options.new_id(), "name": body["name"], "policy": policy, "policies": [policy],
            "rules": body.get("rules") or {}, "members": [], "metadata": {}, "project_id": call.context.project_id,
            "user_id": call.context.user_id,
        }  # fmt: skip
        return Reply({"server_group": self.groups.add(row)})

    def _show_group(self, call: Call) -> Reply:
        row = self.groups.get(call.variables[0])
        if row is None:
            raise CloudError(404, "itemNotFound", f"Instance group {call.variables[0]} could not be found.")
        return Reply({"server_group": row})

    def _delete_group(self, call: Call) -> Reply:
        self._show_group(call)
        self.groups.remove(call.variables[0])
        return Reply(None, 204)

    def _list_keypairs(self, call: Call) -> Reply:
        own = [row for (user, _), row in self.keypairs.items() if user == call.context.user_id]
        return Reply({"keypairs": [{"keypair": row} for row in own]})

    def _create_keypair(self, call: Call) -> Reply:
        body = call.json()["keypair"]
        row = {"name": body["name"], "public_key": body.get("public_key", ""), "fingerprint": "", "type": "ssh"}
        self.keypairs[call.context.user_id, body["name"]] = row
        return Reply({"keypair": row}, 201)

    def _delete_keypair(self, call: Call) -> Reply:
        if self.keypairs.pop((call.context.user_id, call.variables[0]), None) is None:
            raise CloudError(404, "itemNotFound", f"Keypair {call.variables[0]} not found")
        return Reply(None, 204)

    def _zones(self, _call: Call) -> Reply:
        zone = {"zoneName": "nova", "zoneState": {"available": True}, "hosts": None}
        return Reply({"availabilityZoneInfo": [zone]})

    def _services(self, call: Call) -> Reply:
        _admin(call.context)
        service = {"binary": "nova-compute", "host": self._options.hostname, "zone": "nova", "status": "enabled"}
        return Reply({"services": [{**service, "id": 1, "state": "up", "disabled_reason": None}]})


def _microversion(call: Call) -> tuple[int, int]:
    named = call.headers.get("OpenStack-API-Version", "")
    version = named.removeprefix("compute ") if named.startswith("compute ") else ""
    version = version or call.headers.get("X-OpenStack-Nova-API-Version", "2.1")
    major, _, minor = (LATEST if version == "latest" else version).partition(".")
    return int(major), int(minor or 1)


def _admin(context: Context) -> None:
    if not context.is_admin:
        raise CloudError(403, "forbidden", "Policy doesn't allow this to be performed.")


def _version(base: str) -> dict[str, Any]:
    return {
        "id": "v2.1", "status": "CURRENT", "version": LATEST, "min_version": "2.1", "updated": "2013-07-23T11:33:21Z",
        "links": [{"rel": "self", "href": f"{base}/v2.1/"}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}],
    }  # fmt: skip


def _links(call: Call, server_id: str) -> list[dict[str, str]]:
    return [
        {"rel": "self", "href": f"{call.base_url}/v2.1/servers/{server_id}"},
        {"rel": "bookmark", "href": f"{call.base_url}/servers/{server_id}"},
    ]


def _attachment(port: Row) -> Row:
    return {
        "net_id": port["network_id"], "port_id": port["id"], "mac_addr": port["mac_address"],
        "port_state": port["status"], "fixed_ips": port["fixed_ips"],
    }  # fmt: skip


def _fits(row: Row, query: dict[str, str]) -> bool:
    """The filters that Nova knows; it ignores others, and so does this."""
    if "name" in query and not re.search(query["name"], row["name"]):
        return False
    if "status" in query and row["status"] != query["status"].upper():
        return False
    if "uuid" in query and row["id"] != query["uuid"]:
        return False
    if "changes-since" in query and row["updated"] < query["changes-since"]:
        return False
    return "image" not in query or row["image"] == "" or row["image"]["id"] == query["image"]


def _cut(call: Call, rows: list[Row], query: dict[str, str]) -> tuple[list[Row], Row]:
    if "marker" in query:
        ids = [row["id"] for row in rows]
        if query["marker"] not in ids:
            raise CloudError(400, "badRequest", f"marker [{query['marker']}] not found")
        rows = rows[ids.index(query["marker"]) + 1 :]
    limit = int(query.get("limit", "1000")) or 1000
    if len(rows) < limit:
        return rows, {}
    page = rows[:limit]
    kept = "&".join(part for part in call.query_string.split("&") if part and not part.startswith("marker="))
    joined = f"{kept}&" if kept else ""
    href = f"{call.base_url}{call.path}?{joined}marker={page[-1]['id']}"
    return page, {"servers_links": [{"rel": "next", "href": href}]}
