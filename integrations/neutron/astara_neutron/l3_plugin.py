"""The service plugin `astara-router`: Neutron's L3 API for clouds that run no L3 agent at all.

All it does is keep the database: it is composed of Neutron's own mixins, as Neutron's plugin for OVN is, without agent
schedulers and without calls to agents. What it stores reaches an appliance through the orchestrator.
"""

import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from neutron.db import (
    dns_db,
    l3_fip_pools_db,
    l3_fip_port_details,
    l3_fip_qos,
    l3_gateway_ip_qos,
    l3_gwmode_db,
)
from neutron.db.availability_zone import router as router_az_db
from neutron.db.models import l3 as l3_models
from neutron.quota import resource_registry
from neutron_lib import constants as lib_constants
from neutron_lib.api.definitions import (
    availability_zone,
    extraroute,
    extraroute_atomic,
    fip_pf_detail,
    fip_port_details,
    floatingip_pools,
    l3,
    l3_enable_default_route_ecmp,
    l3_ext_gw_mode,
    l3_ext_gw_multihoming,
    l3_ext_ha_mode,
    l3_flavors,
    l3_port_ip_change_not_allowed,
    qos_fip,
    qos_gateway_ip,
    router_availability_zone,
)
from neutron_lib.api.validators import availability_zone as az_validators
from neutron_lib.db import resource_extend
from neutron_lib.exceptions import availability_zone as az_errors
from neutron_lib.plugins import constants, directory
from neutron_lib.services import base
from oslo_config import cfg

from . import driver_controller, options
from .member_actions import CheckedGateways, CheckedRoutes
from .silence import Nobody

_OWN = "neutron.extensions"
_QOS = {qos_fip.ALIAS, qos_gateway_ip.ALIAS}
_LATER = ("floatingip_router_writable", "router_enable_snat")
"""Definitions of extensions that came after 2025.1."""


def _known(definitions: Iterable[str]) -> Iterator[str]:
    """The aliases of those of the extensions that this Neutron has."""
    for name in definitions:
        if all(importlib.util.find_spec(f"{where}.{name}") for where in ("neutron_lib.api.definitions", _OWN)):
            yield importlib.import_module(f"neutron_lib.api.definitions.{name}").ALIAS


@resource_extend.has_resource_extenders
class AstaraRouterPlugin(
    base.ServicePluginBase,
    CheckedRoutes,
    l3_gwmode_db.L3_NAT_db_mixin,
    dns_db.DNSDbMixin,
    l3_fip_port_details.Fip_port_details_db_mixin,
    router_az_db.RouterAvailabilityZoneMixin,
    l3_fip_qos.FloatingQoSDbMixin,
    l3_gateway_ip_qos.L3_gw_ip_qos_db_mixin,
    l3_fip_pools_db.FloatingIPPoolsMixin,
    CheckedGateways,
):
    """Routers and floating IPs."""

    _supported_extension_aliases: ClassVar[list[str]] = [
        l3.ALIAS,
        l3_ext_gw_mode.ALIAS,
        extraroute.ALIAS,
        extraroute_atomic.ALIAS,
        l3_ext_ha_mode.ALIAS,
        l3_flavors.ALIAS,
        l3_port_ip_change_not_allowed.ALIAS,
        router_availability_zone.ALIAS,
        l3_ext_gw_multihoming.ALIAS,
        l3_enable_default_route_ecmp.ALIAS,
        fip_port_details.ALIAS,
        fip_pf_detail.ALIAS,
        floatingip_pools.ALIAS,
        qos_fip.ALIAS,
        qos_gateway_ip.ALIAS,
    ]
    __native_pagination_support = True
    __native_sorting_support = True
    __filter_validation_support = True

    IP_UPDATE_NOT_ALLOWED_LIST: ClassVar[list[str]] = [lib_constants.DEVICE_OWNER_ROUTER_INTF]

    @resource_registry.tracked_resources(router=l3_models.Router, floatingip=l3_models.FloatingIP)
    def __init__(self) -> None:
        super().__init__()
        self._l3_rpc_notifier = Nobody()
        self.l3_driver_controller = driver_controller.DriverController(self)

    @property
    def supported_extension_aliases(self) -> list[str]:
        """Those of the API; QoS only beside Neutron's QoS plugin, zones where the core plugin knows them."""
        without = set() if directory.get_plugin(constants.QOS) else set(_QOS)
        if availability_zone.ALIAS not in getattr(directory.get_plugin(), "supported_extension_aliases", ()):
            without.add(router_availability_zone.ALIAS)
        return [*(one for one in self._supported_extension_aliases if one not in without), *_known(_LATER)]

    @classmethod
    def get_plugin_type(cls) -> str:
        """Takes the place of Neutron's router plugin."""
        kind: str = constants.L3
        return kind

    def get_plugin_description(self) -> str:
        """For the list of plugins."""
        return "Routers in service VMs of Astara"

    def create_floatingip(self, context: Any, floatingip: Any) -> Any:
        """A floating IP is DOWN until an appliance serves it."""
        return super().create_floatingip(context, floatingip, initial_status=lib_constants.FLOATINGIP_STATUS_DOWN)

    def router_supports_scheduling(self, _context: Any, _router_id: str) -> bool:
        """No router is given to an agent."""
        return False

    def get_router_availability_zones(self, router: Any) -> list[str]:
        """Where a router's instance was asked to be."""
        extra = router["extra_attributes"]
        hints: list[str] = az_validators.convert_az_string_to_list(extra and extra.availability_zone_hints)
        return hints

    def validate_availability_zones(self, _context: Any, resource_type: str, availability_zones: list[str]) -> None:
        """AvailabilityZoneNotFound for a zone that the operator does not offer to routers."""
        offered = set(cfg.CONF[options.GROUP].availability_zones)
        if resource_type == "router" and (unknown := set(availability_zones or ()) - offered):
            raise az_errors.AvailabilityZoneNotFound(availability_zone=", ".join(sorted(unknown)))

    @staticmethod
    @resource_extend.extends([l3.ROUTERS])
    def _show_flavor(shown: dict[str, Any], router: Any) -> None:
        shown["flavor_id"] = router["flavor_id"]
