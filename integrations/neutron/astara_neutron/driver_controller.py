"""Which provider a router has under the L3 plugin `astara-router`: Astara's, unless its flavor names another."""

from typing import Any

from neutron.db import servicetype_db
from neutron.services import provider_configuration
from neutron.services.l3_router.service_providers import driver_controller
from neutron_lib import exceptions
from neutron_lib.plugins import constants
from oslo_log import log

from .flavors import is_given

LOG = log.getLogger(__name__)

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

    def _get_provider_for_create(self, context: Any, router: dict[str, Any]) -> Any:
        if not is_given(router):
            return self.drivers[self.default_provider]
        return self._get_l3_driver_by_flavor(context, router["flavor_id"])

    def _attrs_to_driver(self, _router: Any, exc: Exception | None = None) -> Any:
        if exc is not None:
            raise exc
        return self.drivers[self.default_provider]


class _Providers(provider_configuration.ProviderConfiguration):
    """Those of the configuration, and Astara's when it is not among them."""

    def __init__(self) -> None:
        super().__init__(svc_type=constants.L3)
        entry = {"service_type": constants.L3, "name": NAME, "driver": PROVIDER, "default": True}
        try:
            self.add_provider(entry)
        except exceptions.Invalid:
            LOG.debug("The provider %s, or another default one, is in the configuration", NAME)
