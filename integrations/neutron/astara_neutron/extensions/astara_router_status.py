"""`PUT /v2.0/astara-router-statuses/<router>`, and `status_reason` on routers (docs/contracts.md)."""

from typing import Any

from neutron_lib.api.definitions import l3

from astara_neutron import policies, status, web

_COLLECTION = "astara-router-statuses"
_KEY = "router_status"
_ATTRIBUTES = {
    l3.ROUTERS: {
        status.STATUS_REASON: {"allow_post": False, "allow_put": False, "is_visible": True, "enforce_policy": True}
    }
}


class Controller:
    """The call."""

    def update(self, request: Any, id: str, **_parts: Any) -> dict[str, Any]:  # noqa: A002 - Neutron names it so
        """Set what is named."""
        web.enforce(request.context, policies.UPDATE_STATUS)
        told = status.checked(web.body(_KEY))
        return {_KEY: status.write(request.context, id, told)}


class Astara_router_status(web.Descriptor):  # noqa: N801 - Neutron finds it by the file's name
    """What the orchestrator says of routers: their status and why they have it."""

    alias = "astara-router-status"
    title = "Router status write-back"

    @classmethod
    def get_resources(cls) -> list[Any]:
        """The collection."""
        return web.published(_COLLECTION, Controller())

    def get_extended_resources(self, version: str) -> dict[str, Any]:
        """What routers show beside what they show anyway, and the collection's attributes."""
        return {**(_ATTRIBUTES if version == "2.0" else {}), **web.attributes(_COLLECTION)}

    def get_required_extensions(self) -> list[str]:
        """There must be routers."""
        return [l3.ALIAS]
