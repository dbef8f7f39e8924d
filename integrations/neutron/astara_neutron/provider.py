"""The service provider of routers that Astara manages: Neutron does addresses, Astara does packets.

It is named in `[service_providers]` and chosen by a router's flavor; under the L3 plugin `astara-router` it is the
default one. With Neutron's own router plugin its routers never have `ha` of Neutron's kind, which would count L3 agents
and make networks for them: there the flavor's profile alone says it.

Neutron calls all receivers of an event, also after one of them has refused. So a request is made harmless first, and
refused then.
"""

import ipaddress
from typing import Any

from neutron.db import l3_attrs_db, l3_hamode_db, servicetype_db
from neutron.ipam import exceptions as ipam_errors
from neutron.objects import router as router_objects
from neutron.services.l3_router.service_providers import base
from neutron.services.portforwarding import constants as port_forwarding
from neutron_lib import constants as lib_constants
from neutron_lib import exceptions
from neutron_lib.api.definitions import l3
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.db import resource_extend
from neutron_lib.exceptions import flavors as flavor_errors
from neutron_lib.plugins import constants

from . import default_flavor, flavors

BEFORE_AGENTS = default_flavor.FIRST + 50


@registry.has_registry_receivers
@resource_extend.has_resource_extenders
class AstaraRouterProvider(base.L3ServiceProvider):
    """Nothing is scheduled, nothing is programmed; new routers are ALLOCATING until an instance serves them."""

    ha_support = base.OPTIONAL
    name: str
    """As configured; Neutron sets it."""

    def __init__(self, l3plugin: Any) -> None:
        """ValueError when an operator made this the default provider of an L3 plugin that has its own routers."""
        super().__init__(l3plugin)
        default_flavor.subscribe()
        self._counts_agents = isinstance(l3plugin, l3_hamode_db.L3_HA_NAT_db_mixin)
        if self._counts_agents:
            self.ha_support = base.UNSUPPORTED
            self._refuse_to_be_default()
            registry.subscribe(self._stand_last, resources.PROCESS, events.AFTER_INIT)
        if hasattr(type(l3plugin), "_ovn_client"):
            from .ovn import Backend  # noqa: PLC0415 - wants what only a Neutron with OVN has

            self._refuse_to_be_default()
            self.backend = Backend(l3plugin, self.is_ours)

    def is_ours(self, context: Any, router: flavors.Router) -> bool:
        """Whether a router that exists is this provider's, as Neutron has recorded when it was created.

        What was recorded for another L3 plugin, which had other providers, counts for nothing.
        """
        manager, controller = servicetype_db.ServiceTypeManager.get_instance(), self.l3plugin.l3_driver_controller
        name: str | None = manager.get_provider_names_by_resource_ids(context, [router["id"]]).get(router["id"])
        return bool((name if name in controller.drivers else controller.default_provider) == self.name)

    def _will_be_ours(self, context: Any, router: flavors.Router) -> bool:
        """The same of one that is about to be created."""
        if not flavors.is_given(router):
            return bool(self.l3plugin.l3_driver_controller.default_provider == self.name)
        try:
            return flavors.provider_of(context, router["flavor_id"]) == self.name
        except (exceptions.NotFound, exceptions.ServiceUnavailable):
            # Neutron's driver controller looks for it next, and says what is wrong with the flavor.
            router["ha"] = False
            return False

    @registry.receives(resources.ROUTER, [events.BEFORE_CREATE], BEFORE_AGENTS)
    def _keep_from_agents(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """Refuse what contradicts the flavor, and let Neutron's own router plugin see a plain router."""
        context, router = payload.context, payload.latest_state
        if self._counts_agents:
            self._stand_last()
        if not self._will_be_ours(context, router):
            return
        asked = router.get("ha", lib_constants.ATTR_NOT_SPECIFIED)
        if self._counts_agents:
            router["ha"] = False
            if router.get("distributed") in (None, lib_constants.ATTR_NOT_SPECIFIED):
                router["distributed"] = False
        if flavors.is_given(router) and not flavors.is_enabled(context, router["flavor_id"]):
            raise flavor_errors.FlavorDisabled
        self._check_ha(context, router, asked)

    @registry.receives(resources.ROUTER, [events.PRECOMMIT_UPDATE], BEFORE_AGENTS)
    def _change_ha(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """Keep a new `ha`. Where Neutron's own router plugin keeps it, the driver controller refuses to change it."""
        asked = (payload.request_body or {}).get("ha")
        router = payload.states[0]
        if self._counts_agents or asked not in (True, False) or not self.is_ours(payload.context, router):
            return
        self._check_ha(payload.context, router, asked)
        l3_attrs_db.ExtraAttributesMixin.set_extra_attr_value(payload.desired_state, "ha", asked)

    @registry.receives(resources.ROUTER_CONTROLLER, [events.PRECOMMIT_ADD_ASSOCIATION])
    def _begin(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """A new router of ours is told apart from one that is served already."""
        if payload.metadata.get("new_driver") is not self:
            return
        router = payload.states[0]
        if isinstance(router, dict):
            return  # one from before there were providers, mapped when it was first asked for
        router.status = lib_constants.ROUTER_STATUS_ALLOCATING
        if self._counts_agents:
            return
        # Without these, Neutron's options for routers of agents would decide.
        wants = flavors.wants_ha(payload.context, payload.request_body)
        l3_attrs_db.ExtraAttributesMixin.set_extra_attr_value(router, "ha", wants)
        l3_attrs_db.ExtraAttributesMixin.set_extra_attr_value(router, "distributed", False)

    @registry.receives(resources.PORT, [events.PRECOMMIT_UPDATE])
    def _keep_addresses(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """BadRequest for other IPv4 addresses of an interface, where the L3 plugin says that they stay.

        Neutron itself looks at routers of agents only.
        """
        before, after = payload.states[0], payload.desired_state
        if before["device_owner"] not in getattr(self.l3plugin, "IP_UPDATE_NOT_ALLOWED_LIST", ()):
            return
        if _ipv4_addresses(before) == _ipv4_addresses(after):
            return
        if self.is_ours(payload.context, {"id": before["device_id"]}):
            # As Neutron wraps it.
            error = ipam_errors.IPAddressChangeNotAllowed(port_id=before["id"])
            raise exceptions.BadRequest(resource="ports", msg=error)

    @registry.receives(resources.FLOATING_IP, [events.PRECOMMIT_UPDATE])
    def _end_association(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """A floating IP that leaves a router of ours, or comes to one, is DOWN until its router, if any, serves it."""
        former, now = payload.states[0], payload.desired_state
        if former["router_id"] == now.router_id or former["status"] == lib_constants.FLOATINGIP_STATUS_DOWN:
            return
        context = payload.context.elevated()
        if any(self.is_ours(context, {"id": one}) for one in (former["router_id"], now.router_id) if one):
            router_objects.FloatingIP.update_object(
                context, {"status": lib_constants.FLOATINGIP_STATUS_DOWN}, id=former["id"]
            )

    @staticmethod
    @resource_extend.extends([l3.FLOATINGIPS])
    def _show_status(shown: dict[str, Any], floating_ip: Any) -> None:
        """As it is: Neutron makes the answer to a change before `_end_association` is asked."""
        shown["status"] = floating_ip.status

    @registry.receives(port_forwarding.PORT_FORWARDING, [events.AFTER_DELETE])
    def _end_port_forwardings(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """The same of one that leaves with its last port forwarding, of which Neutron tells nothing else."""
        context, deleted = payload.context.elevated(), payload.latest_state
        floating_ip = router_objects.FloatingIP.get_object(context, id=deleted.floatingip_id)
        if floating_ip is None or floating_ip.router_id or not deleted.router_id:
            return
        if self.is_ours(context, {"id": deleted.router_id}):
            self.l3plugin.update_floatingip_status(context, floating_ip.id, lib_constants.FLOATINGIP_STATUS_DOWN)

    def _check_ha(self, context: Any, router: flavors.Router, asked: Any) -> None:
        """InvalidInput when the flavor says otherwise, or when nothing but the flavor can say it."""
        wanted = flavors.profile_of(context, router["flavor_id"]).get("ha") if flavors.is_given(router) else None
        if asked in (True, False) and wanted is not None and asked is not wanted:
            raise exceptions.InvalidInput(
                error_message=f"ha={asked} contradicts the router's flavor, whose profile says ha={wanted}"
            )
        if asked is True and wanted is None and self._counts_agents:
            raise exceptions.InvalidInput(
                error_message='ha: choose a flavor whose service profile says {"ha": true} instead'
            )

    def _stand_last(self, *_event: Any, **_payload: Any) -> None:
        """Neutron's own router plugin gives a router without flavor to the first provider that can have it: not us."""
        controller = self.l3plugin.l3_driver_controller
        if next(reversed(controller.drivers)) != self.name:
            others = {name: driver for name, driver in controller.drivers.items() if driver is not self}
            controller.drivers = {**others, self.name: self}

    def _refuse_to_be_default(self) -> None:
        manager = servicetype_db.ServiceTypeManager.get_instance()
        driver = f"{type(self).__module__}.{type(self).__qualname__}"
        chosen = {"service_type": [constants.L3], "driver": [driver], "default": [True]}
        if manager.get_service_providers(None, filters=chosen):
            message = (
                f"[service_providers] service_provider: {driver} cannot be the default provider of the L3 plugin "
                f"{type(self.l3plugin).__name__}; take `:default` away and name a flavor in [astara] default_flavor"
            )
            raise ValueError(message)


def _ipv4_addresses(port: dict[str, Any]) -> set[str]:
    addresses = (one["ip_address"] for one in port["fixed_ips"])
    return {one for one in addresses if ipaddress.ip_address(one).version == lib_constants.IP_VERSION_4}
