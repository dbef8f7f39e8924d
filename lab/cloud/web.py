"""HTTP in and out: a table of routes, a request as a `Call`, an answer as a `Reply`, the errors that calls raise.

A handler is a plain function of the call: it does not wait, so everything that one call changes happens at once.
Whatever takes time (latency, slow faults, boots) is done around handlers, never in them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl


class CloudError(Exception):
    """A call that a service refuses, shown in the shape of that service."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        """`kind` is the type that Neutron names; other services derive theirs from the status."""
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class Context:
    """Who calls, in which project."""

    user_id: str
    user_name: str
    project_id: str
    project_name: str
    roles: tuple[str, ...]
    request_id: str = ""
    token: str | None = None

    @property
    def is_admin(self) -> bool:
        """Sees and changes the objects of every project."""
        return "admin" in self.roles


NOBODY = Context(user_id="", user_name="", project_id="", project_name="", roles=())


@dataclass(slots=True)
class Call:
    """One request. `variables` are the values of the route's braces, in order."""

    method: str
    path: str
    headers: Mapping[str, str]
    query_string: str
    raw: bytes
    base_url: str
    variables: tuple[str, ...] = ()
    context: Context = NOBODY

    def query(self) -> list[tuple[str, str]]:
        """The pairs of the query, blanks kept."""
        return parse_qsl(self.query_string, keep_blank_values=True)

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; 400 when it is something else."""
        try:
            body = json.loads(self.raw) if self.raw else {}
        except ValueError as error:
            raise CloudError(400, "HTTPBadRequest", f"The body is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise CloudError(400, "HTTPBadRequest", "The body is not a JSON object")
        return body

    def json_list(self) -> list[dict[str, Any]]:
        """The body as a list of JSON objects, as in a JSON patch; 400 when it is something else."""
        try:
            body = json.loads(self.raw)
        except ValueError as error:
            raise CloudError(400, "HTTPBadRequest", f"The body is not JSON: {error}") from error
        if not isinstance(body, list) or not all(isinstance(one, dict) for one in body):
            raise CloudError(400, "HTTPBadRequest", "The body is not a list of JSON objects")
        return body


@dataclass(slots=True)
class Reply:
    """An answer; `body` is JSON data, bytes as they are, or None for no body."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Call], Reply]


@dataclass(slots=True)
class Route:
    """A path with `{…}` for one variable segment, or a trailing `*` for the rest of the path."""

    pattern: str
    handler: Handler
    public: bool = False
    """No token is asked for."""


class _Node:
    __slots__ = ("literals", "rest", "routes", "variable")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.variable: _Node | None = None
        self.routes: dict[str, Route] = {}
        self.rest: dict[str, Route] = {}


class Routes:
    """All routes of one service."""

    def __init__(self) -> None:
        self._root = _Node()

    def add(self, method: str, pattern: str, handler: Handler, *, public: bool = False) -> None:
        """Answer `method` on `pattern` with `handler`."""
        node = self._root
        route = Route(pattern, handler, public)
        for part in pattern.strip("/").split("/"):
            if part == "*":
                node.rest[method] = route
                return
            if part.startswith("{"):
                node.variable = node.variable or _Node()
                node = node.variable
            elif part:
                node = node.literals.setdefault(part, _Node())
        node.routes[method] = route

    def find(self, method: str, path: str) -> tuple[Route, tuple[str, ...]]:
        """The route of a path and its variables; CloudError 404 or 405."""
        node = self._root
        variables: list[str] = []
        rest: dict[str, Route] = {}
        for part in path.removesuffix(".json").split("/"):
            if not part:
                continue
            rest = node.rest or rest
            following = node.literals.get(part)
            if following is None:
                following = node.variable
                variables.append(part)
            if following is None:
                break
            node = following
        else:
            route = node.routes.get(method)
            if route is not None:
                return route, tuple(variables)
            if node.routes:
                raise CloudError(405, "HTTPMethodNotAllowed", "The method is not allowed for this resource")
        if method in rest:
            return rest[method], ()
        raise CloudError(404, "HTTPNotFound", "The resource could not be found.")
