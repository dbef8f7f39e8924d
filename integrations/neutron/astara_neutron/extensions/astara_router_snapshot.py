"""`GET /v2.0/astara-router-snapshots` (docs/contracts.md)."""

from typing import Any
from urllib.parse import urlencode

from astara_neutron import log, snapshot, web

_RULE = "get_astara_router_snapshot"
_COLLECTION = "astara-router-snapshots"
_KEY = "router_snapshots"
_LIMIT, _MOST = 100, 500
_MOST_REVISION = 2**63 - 1
_MOST_ID = 64
"""Characters."""


class Controller:
    """The calls."""

    def show(self, request: Any, id: str, **_parts: Any) -> dict[str, Any]:  # noqa: A002 - Neutron names it so
        """One router."""
        web.enforce(request.context, _RULE)
        instance = None
        for name, value in web.query():
            if name != "instance":
                raise web.WrongField(name, 'only "instance", the id of a server, is understood')
            instance = _id(name, value)
        return {"router_snapshot": snapshot.of(request.context, id, instance)}

    def index(self, request: Any, **_parts: Any) -> dict[str, Any]:
        """A page of routers."""
        web.enforce(request.context, _RULE)
        told, limit, marker = None, _LIMIT, ""
        fields: set[str] = set()
        query = web.query()
        for name, value in query:
            if name == "changed_since":
                told = web.number(name, value, 0, _MOST_REVISION)
            elif name == "limit":
                limit = web.number(name, value, 1, _MOST)
            elif name == "marker":
                marker = _id(name, value)
            elif name == "fields" and value in ("id", *snapshot.PARTS):
                fields.add(value)
            elif name == "fields":
                raise web.WrongField(name, f"one of id, {', '.join(snapshot.PARTS)} is expected")
            else:
                raise web.WrongField(name, "changed_since, limit, marker and fields are understood")
        try:
            page, revision, more = snapshot.listed(request.context, told, limit, marker, fields or set(snapshot.PARTS))
        except log.UnknownRevisionError:
            text = f"changed_since: {told} is not known here any more, never was, or too much changed since"
            raise web.gone(f"{text}; list everything") from None
        answer: dict[str, Any] = {_KEY: page, "revision": revision}
        if more is not None:
            rest = [(name, value) for name, value in query if name != "marker"]
            href = f"{web.url()}?{urlencode([*rest, ('marker', more)])}"
            answer[f"{_KEY}_links"] = [{"rel": "next", "href": href}]
        return answer


def _id(field: str, value: str) -> str:
    if len(value) > _MOST_ID:
        raise web.WrongField(field, f"an id of at most {_MOST_ID} characters is expected")
    return value


class Astara_router_snapshot(web.Descriptor):  # noqa: N801 - Neutron finds it by the file's name
    """Everything that a router's configuration is made of, in one read."""

    alias = "astara-router-snapshot"
    title = "Router snapshots"

    def get_extended_resources(self, _version: str) -> dict[str, Any]:
        """The collection's attributes."""
        return web.attributes(_COLLECTION)

    @classmethod
    def get_resources(cls) -> list[Any]:
        """The collection."""
        return web.published(_COLLECTION, Controller())
