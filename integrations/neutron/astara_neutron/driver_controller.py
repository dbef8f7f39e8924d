"""Which provider a router has under the L3 plugin `astara-router`: Astara's, unless its flavor names another."""

from typing import Any

from neutron.db import servicetype_db
from neutron.db.models import servicetype
from neutron.services import provider_configuration
from neutron.services.l3_router.service_providers import driver_controller
from neutron_lib.db import api as db_api
from neutron_lib.plugins import constants

from .flavors import is_given

PROVIDER = "astara_neutron.provider.AstaraRouterProvider"
NAME = "astara"


class DriverController(driver_controller.DriverController):
    """Neutron's own, without its providers for agents."""

    def __init__(self, l3_plugin: Any) -> None:
        # Not the base class's, which brings the providers for agents.
        self.l3_plugin = l3_plugin
        self._stm = servicetype_db.ServiceTypeManager.get_instance()
        self._stm.add_provider_configuration(constants.L3, _Providers())
        self._load_drivers()

    def get_provider_for_router(self, context: Any, router_id: str) -> Any:
        """A router's provider. One from before, whose provider is no more, goes to the default one from now on."""
        known = self._stm.get_provider_names_by_resource_ids(context, [router_id]).get(router_id)
        if known is not None and known not in self.drivers:
            # Not as Neutron does it, which forgets all that the request has read.
            with db_api.CONTEXT_WRITER.using(context) as session:
                recorded = session.query(servicetype.ProviderResourceAssociation).filter_by(resource_id=router_id)
                recorded.update({"provider_name": self.default_provider}, synchronize_session=False)
        return super().get_provider_for_router(context, router_id)

    def _get_provider_for_create(self, context: Any, router: dict[str, Any]) -> Any:
        if not is_given(router):
            return self.drivers[self.default_provider]
        return self._get_l3_driver_by_flavor(context, router["flavor_id"])

    def _attrs_to_driver(self, _router: Any, exc: Exception | None = None) -> Any:
        if exc is not None:
            raise exc
        return self.drivers[self.default_provider]


class _Providers(provider_configuration.ProviderConfiguration):
    """Those of the configuration, and Astara's; it is the default one when the configuration names none."""

    def __init__(self) -> None:
        super().__init__(svc_type=constants.L3)
        if not any(entry["driver"] == PROVIDER for entry in self.providers.values()):
            self.add_provider({"service_type": constants.L3, "name": NAME, "driver": PROVIDER, "default": False})
        if not any(entry["default"] for entry in self.providers.values()):
            ours = next(entry for entry in self.providers.values() if entry["driver"] == PROVIDER)
            ours["default"] = True
