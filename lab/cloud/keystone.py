"""Keystone v3: accounts, tokens and the catalogue, enough for the SDK and for `openstack project|user|role` commands.

One domain, `default`. A token carries the roles that its user had when it was made; taking a role away revokes the
user's tokens, as the real service does, so that the next call is told to authenticate again.
"""

import datetime as dt
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .options import CloudOptions
from .store import Row, Table
from .web import Call, CloudError, Context, Reply, Routes

IMPLIED = {"admin": ("manager", "member", "reader"), "manager": ("member", "reader"), "member": ("reader",)}
ROLES = ("admin", "manager", "member", "reader", "service")
DOMAIN = {"id": "default", "name": "Default"}


@dataclass(frozen=True, slots=True)
class Token:
    """One issued token."""

    value: str
    user: Row
    project: Row | None
    roles: tuple[str, ...]
    issued: float
    expires: float


class IdentityService:
    """The identity service; `seed` accounts through `add_project`, `add_user` and `assign`."""

    def __init__(self, options: CloudOptions, endpoints: Callable[[], Mapping[str, str]]) -> None:
        """`endpoints` answers the URL of each service type once the servers listen."""
        self._options = options
        self._endpoints = endpoints
        self.projects = Table("name")
        self.users = Table("name")
        self.roles = Table("name")
        self._assigned: dict[tuple[str, str], dict[str, None]] = {}
        self._tokens: dict[str, Token] = {}
        for role in ROLES:
            self.roles.add({"id": self._new_id(), "name": role, "domain_id": None, "description": None, "options": {}})

    # Accounts

    def add_project(self, name: str, description: str = "") -> Row:
        """A new project; CloudError 409 when the name is taken."""
        if self.projects.find("name", name):
            raise CloudError(409, "Conflict", f"Conflict occurred attempting to store project - {name} exists.")
        return self.projects.add(
            {
                "id": self._new_id(), "name": name, "domain_id": "default", "description": description, "enabled": True,
                "parent_id": "default", "is_domain": False, "tags": [], "options": {},
            }
        )  # fmt: skip

    def add_user(self, name: str, password: str, project: str | None = None) -> Row:
        """A new user; CloudError 409 when the name is taken."""
        if self.users.find("name", name):
            raise CloudError(409, "Conflict", f"Conflict occurred attempting to store user - {name} exists.")
        row: Row = {
            "id": self._new_id(), "name": name, "domain_id": "default", "enabled": True, "password": password,
            "password_expires_at": None, "options": {},
        }  # fmt: skip
        if project:
            row["default_project_id"] = project
        return self.users.add(row)

    def role(self, name: str) -> Row:
        """The role of that name; KeyError when there is none."""
        for row in self.roles.find("name", name):
            return row
        raise KeyError(name)

    def assign(self, user: Row, project: Row, role: Row) -> None:
        """Give a user a role in a project."""
        self._assigned.setdefault((user["id"], project["id"]), {})[role["id"]] = None

    def withdraw(self, user: Row, project: Row, role: Row) -> None:
        """Take a role away and revoke the user's tokens."""
        held = self._assigned.get((user["id"], project["id"]), {})
        held.pop(role["id"], None)
        self._tokens = {v: token for v, token in self._tokens.items() if token.user["id"] != user["id"]}

    def context_of(self, user_name: str, project_name: str, request_id: str = "") -> Context:
        """The context of an account as if it had called; KeyError for an unknown one."""
        users, projects = self.users.find("name", user_name), self.projects.find("name", project_name)
        if not users or not projects:
            raise KeyError(f"{user_name}/{project_name}")
        user, project = users[0], projects[0]
        roles = self._roles_of(user, project)
        return Context(user["id"], user_name, project["id"], project_name, roles, request_id)

    # Tokens

    def context(self, value: str | None, request_id: str) -> Context | None:
        """Who holds a token; None when it is unknown or has expired."""
        token = self._valid(value)
        if token is None:
            return None
        project = token.project
        return Context(
            token.user["id"], token.user["name"], project["id"] if project else "", project["name"] if project else "",
            token.roles, request_id, value,
        )  # fmt: skip

    def expire_all(self) -> None:
        """Make every token invalid at once."""
        self._tokens.clear()

    def _valid(self, value: str | None) -> Token | None:
        token = self._tokens.get(value or "")
        if token is not None and token.expires <= self._options.clock():
            del self._tokens[token.value]
            return None
        return token

    def _roles_of(self, user: Row, project: Row) -> tuple[str, ...]:
        names: dict[str, None] = {}
        for role_id in self._assigned.get((user["id"], project["id"]), {}):
            name = self.roles.get(role_id)["name"]  # type: ignore[index]
            names.update(dict.fromkeys((name, *IMPLIED.get(name, ()))))
        return tuple(names)

    def _issue(self, call: Call) -> Reply:
        auth = call.json().get("auth", {})
        identity = auth.get("identity", {})
        methods = identity.get("methods", [])
        if "token" in methods:
            old = self._valid(identity["token"]["id"])
            if old is None:
                raise _unauthorized()
            user = old.user
        else:
            user = self._authenticated(identity.get("password", {}).get("user", {}))
        scope = auth.get("scope") or {}
        project = self._scoped(scope["project"]) if isinstance(scope, dict) and "project" in scope else None
        if project is None and scope != "unscoped" and user.get("default_project_id"):
            project = self.projects.get(user["default_project_id"])
        roles = self._roles_of(user, project) if project else ()
        if project is not None and not roles:
            raise _unauthorized()
        now = self._options.clock()
        token = Token(secrets.token_urlsafe(24), user, project, roles, now, now + self._options.token_seconds)
        self._tokens[token.value] = token
        return Reply(self._describe(token), 201, {"X-Subject-Token": token.value})

    def _authenticated(self, given: dict[str, Any]) -> Row:
        users = [self.users.get(given["id"])] if "id" in given else self.users.find("name", given.get("name"))
        for user in users:
            if user is not None and secrets.compare_digest(user["password"], str(given.get("password"))):
                return user
        raise _unauthorized()

    def _scoped(self, wanted: dict[str, Any]) -> Row:
        found = [self.projects.get(wanted["id"])] if "id" in wanted else self.projects.find("name", wanted.get("name"))
        if not found or found[0] is None:
            raise _unauthorized()
        return found[0]

    def _describe(self, token: Token) -> dict[str, Any]:
        body: dict[str, Any] = {
            "methods": ["password"],
            "user": {"id": token.user["id"], "name": token.user["name"], "domain": DOMAIN, "password_expires_at": None},
            "audit_ids": [token.value[:22]],
            "expires_at": _time(token.expires),
            "issued_at": _time(token.issued),
        }
        if token.project is not None:
            body |= {
                "project": {"id": token.project["id"], "name": token.project["name"], "domain": DOMAIN},
                "is_domain": False,
                "roles": [{"id": self.role(name)["id"], "name": name} for name in token.roles],
                "catalog": self._catalog(),
            }
        return {"token": body}

    def _catalog(self) -> list[dict[str, Any]]:
        names = {"identity": "keystone", "network": "neutron", "compute": "nova", "image": "glance"}
        return [
            {
                "id": kind, "type": kind, "name": names[kind],
                "endpoints": [
                    {"id": f"{kind}-{interface}", "interface": interface, "region": "RegionOne",
                     "region_id": "RegionOne", "url": url}
                    for interface in ("public", "internal", "admin")
                ],
            }
            for kind, url in self._endpoints().items()
        ]  # fmt: skip

    # HTTP

    def routes(self) -> Routes:
        """All calls of the service."""
        routes = Routes()
        routes.add("GET", "/", self._versions, public=True)
        routes.add("GET", "/v3", self._version, public=True)
        routes.add("POST", "/v3/auth/tokens", self._issue, public=True)
        for method in ("GET", "HEAD"):
            routes.add(method, "/v3/auth/tokens", self._show_token)
        routes.add("DELETE", "/v3/auth/tokens", self._revoke)
        routes.add("GET", "/v3/auth/catalog", lambda _: Reply({"catalog": self._catalog()}))
        routes.add("GET", "/v3/auth/projects", lambda call: self._own_projects(call, call.context.user_id))
        routes.add("GET", "/v3/users/{id}/projects", lambda call: self._own_projects(call, call.variables[0]))
        for plural, name, table in (
            ("projects", "project", self.projects), ("users", "user", self.users), ("roles", "role", self.roles)
        ):  # fmt: skip
            self._crud(routes, plural, name, table)
        domain = {**DOMAIN, "enabled": True, "description": "", "links": {}}
        routes.add("GET", "/v3/domains", lambda call: Reply({"domains": _filtered([domain], call), "links": {}}))
        routes.add("GET", "/v3/domains/{id}", lambda call: _show_domain(domain, call.variables[0]))
        routes.add("GET", "/v3/role_assignments", self._assignments)
        base = "/v3/projects/{project}/users/{user}/roles"
        routes.add("GET", base, self._roles_on_project)
        for method in ("PUT", "GET", "HEAD", "DELETE"):
            routes.add(method, f"{base}/{{role}}", self._grant)
        routes.add("GET", "/v3/services", self._services)
        routes.add("GET", "/v3/endpoints", lambda _: Reply({"endpoints": [], "links": {}}))
        routes.add("GET", "/v3/regions", lambda _: Reply({"regions": [{"id": "RegionOne"}], "links": {}}))
        return routes

    def _crud(self, routes: Routes, plural: str, name: str, table: Table) -> None:
        def show(call: Call) -> Reply:
            return Reply({name: _public(self._require(table, name, call.variables[0]))})

        def update(call: Call) -> Reply:
            _admin(call)
            row = self._require(table, name, call.variables[0])
            return Reply({name: _public(table.change(row, call.json()[name]))})

        def delete(call: Call) -> Reply:
            _admin(call)
            table.remove(self._require(table, name, call.variables[0])["id"])
            return Reply(None, 204)

        def create(call: Call) -> Reply:
            _admin(call)
            body = call.json()[name]
            if name == "project":
                row = self.add_project(body["name"], body.get("description") or "")
            elif name == "user":
                row = self.add_user(body["name"], body.get("password") or "", body.get("default_project_id"))
            else:
                row = table.add({"id": self._new_id(), "domain_id": None, "description": None, "options": {}, **body})
            return Reply({name: _public(row)}, 201)

        routes.add("GET", f"/v3/{plural}", lambda call: Reply({plural: _filtered(table, call), "links": {}}))
        routes.add("POST", f"/v3/{plural}", create)
        routes.add("GET", f"/v3/{plural}/{{id}}", show)
        routes.add("PATCH", f"/v3/{plural}/{{id}}", update)
        routes.add("DELETE", f"/v3/{plural}/{{id}}", delete)

    @staticmethod
    def _require(table: Table, name: str, row_id: str) -> Row:
        row = table.get(row_id)
        if row is None:
            raise CloudError(404, "Not Found", f"Could not find {name}: {row_id}.")
        return row

    def _versions(self, call: Call) -> Reply:
        return Reply({"versions": {"values": [_version(call.base_url)]}}, 300)

    def _version(self, call: Call) -> Reply:
        return Reply({"version": _version(call.base_url)})

    def _show_token(self, call: Call) -> Reply:
        token = self._valid(call.headers.get("X-Subject-Token"))
        if token is None:
            raise CloudError(404, "Not Found", "Failed to validate token")
        return Reply(self._describe(token), 200, {"X-Subject-Token": token.value})

    def _revoke(self, call: Call) -> Reply:
        self._tokens.pop(call.headers.get("X-Subject-Token", ""), None)
        return Reply(None, 204)

    def _own_projects(self, _call: Call, user_id: str) -> Reply:
        ids = [project for (user, project), roles in self._assigned.items() if user == user_id and roles]
        rows = [self.projects.get(project) for project in ids]
        return Reply({"projects": [_public(row) for row in rows if row is not None], "links": {}})

    def _grant(self, call: Call) -> Reply:
        _admin(call)
        project = self._require(self.projects, "project", call.variables[0])
        user = self._require(self.users, "user", call.variables[1])
        role = self._require(self.roles, "role", call.variables[2])
        if call.method == "PUT":
            self.assign(user, project, role)
        elif role["id"] not in self._assigned.get((user["id"], project["id"]), {}):
            raise CloudError(404, "Not Found", f"Could not find role assignment with role: {role['id']}.")
        elif call.method == "DELETE":
            self.withdraw(user, project, role)
        return Reply(None, 204)

    def _roles_on_project(self, call: Call) -> Reply:
        held = self._assigned.get((call.variables[1], call.variables[0]), {})
        return Reply({"roles": [_public(row) for role in held if (row := self.roles.get(role))], "links": {}})

    def _assignments(self, call: Call) -> Reply:
        query = dict(call.query())
        found = []
        for (user_id, project_id), held in self._assigned.items():
            user, project = self.users.get(user_id), self.projects.get(project_id)
            if user is None or project is None or query.get("user.id", user_id) != user_id:
                continue
            if query.get("scope.project.id", project_id) != project_id:
                continue
            for role_id in held:
                role = self.roles.get(role_id)
                if role is not None and query.get("role.id", role_id) == role_id:
                    found.append(
                        {
                            "scope": {"project": {"id": project_id, "name": project["name"], "domain": DOMAIN}},
                            "user": {"id": user_id, "name": user["name"], "domain": DOMAIN},
                            "role": {"id": role_id, "name": role["name"]}, "links": {},
                        }
                    )  # fmt: skip
        return Reply({"role_assignments": found, "links": {}})

    def _services(self, call: Call) -> Reply:
        rows = [{"id": one["id"], "type": one["type"], "name": one["name"], "enabled": True} for one in self._catalog()]
        return Reply({"services": _filtered(rows, call), "links": {}})

    def _new_id(self) -> str:
        return self._options.new_id().replace("-", "")


def _version(base: str) -> dict[str, Any]:
    return {
        "id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{base}/v3/"}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    }  # fmt: skip


def _public(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != "password"} | {"links": {}}


def _filtered(rows: Any, call: Call) -> list[Row]:
    wanted = [(key, value) for key, value in call.query() if key in ("name", "domain_id", "id", "type")]
    return [_public(row) for row in rows if all(str(row.get(key, value)) == value for key, value in wanted)]


def _show_domain(domain: Row, wanted: str) -> Reply:
    if wanted != domain["id"]:
        raise CloudError(404, "Not Found", f"Could not find domain: {wanted}.")
    return Reply({"domain": domain})


def _admin(call: Call) -> None:
    if not call.context.is_admin:
        raise CloudError(403, "Forbidden", "You are not authorized to perform the requested action.")


def _unauthorized() -> CloudError:
    return CloudError(401, "Unauthorized", "The request you have made requires authentication.")


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
