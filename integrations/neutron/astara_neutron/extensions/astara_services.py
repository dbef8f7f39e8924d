"""`PUT /v2.0/astara-services/<deployment>` (docs/contracts.md)."""

from typing import Any

from neutron_lib.api.definitions import agent

from astara_neutron import policies, services, web

_COLLECTION = "astara-services"
_KEY = "services"


class Controller:
    """The call."""

    def update(self, request: Any, id: str, **_parts: Any) -> dict[str, Any]:  # noqa: A002 - Neutron names it so
        """Show these services of the deployment `id` alive."""
        web.enforce(request.context, policies.UPDATE_SERVICES)
        told = web.body(_KEY)
        services.report(request.context, id, services.checked(id, told))
        return {_KEY: told}


class Astara_services(web.Descriptor):  # noqa: N801 - Neutron finds it by the file's name
    """Astara's services in the list of agents."""

    alias = "astara-services"
    title = "Services of Astara"

    @classmethod
    def get_resources(cls) -> list[Any]:
        """The collection."""
        return web.published(_COLLECTION, Controller())

    def get_extended_resources(self, _version: str) -> dict[str, Any]:
        """The collection's attributes."""
        return web.attributes(_COLLECTION)

    def get_required_extensions(self) -> list[str]:
        """There must be such a list."""
        return [agent.ALIAS]
