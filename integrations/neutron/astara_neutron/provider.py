"""The service provider of routers that Astara manages: Neutron does addresses, Astara does packets.

It is named in `[service_providers]` and chosen by a router's flavor; under the L3 plugin `astara-router` it is the
default one. With Neutron's own router plugin its routers never have `ha` of Neutron's kind, which would count L3 agents
and make networks for them: there the flavor's profile alone says it.
"""

from typing import Any

from neutron.db import l3_attrs_db, l3_hamode_db
from neutron.objects import router as router_objects
from neutron.services.l3_router.service_providers import base
from neutron_lib import constants as lib_constants
from neutron_lib import exceptions
from neutron_lib.callbacks import events, registry, resources

from . import default_flavor, flavors

BEFORE_AGENTS = default_flavor.FIRST + 50


@registry.has_registry_receivers
class AstaraRouterProvider(base.L3ServiceProvider):
    """Nothing is scheduled, nothing is programmed; new routers are ALLOCATING until an instance serves them."""

    ha_support = base.OPTIONAL
    name: str
    """As configured; Neutron sets it."""

    def __init__(self, l3plugin: Any) -> None:
        super().__init__(l3plugin)
        self._counts_agents = isinstance(l3plugin, l3_hamode_db.L3_HA_NAT_db_mixin)
        default_flavor.subscribe()
        if hasattr(type(l3plugin), "_ovn_client"):
            from .ovn import Backend  # noqa: PLC0415 - wants what only a Neutron with OVN has

            self.backend = Backend(l3plugin, self.is_ours)

    def is_ours(self, context: Any, router: flavors.Router) -> bool:
        """Whether a router is this provider's, by its flavor."""
        return flavors.is_given(router) and flavors.provider_of(context, router["flavor_id"]) == self.name

    @registry.receives(resources.ROUTER, [events.BEFORE_CREATE], BEFORE_AGENTS)
    def _keep_from_agents(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """Refuse what contradicts the flavor, and let Neutron's own router plugin see a plain router."""
        context, router = payload.context, payload.latest_state
        if not self.is_ours(context, router):
            return
        wanted = flavors.profile_of(context, router["flavor_id"]).get("ha")
        asked = router.get("ha", lib_constants.ATTR_NOT_SPECIFIED)
        if asked in (True, False) and wanted is not None and asked is not wanted:
            raise exceptions.InvalidInput(
                error_message=f"ha={asked} contradicts the router's flavor, whose profile says ha={wanted}"
            )
        if not self._counts_agents:
            return
        if asked is True and wanted is None:
            raise exceptions.InvalidInput(
                error_message='ha: choose a flavor whose service profile says {"ha": true} instead'
            )
        router["ha"] = False
        if router.get("distributed") in (None, lib_constants.ATTR_NOT_SPECIFIED):
            router["distributed"] = False

    @registry.receives(resources.ROUTER_CONTROLLER, [events.PRECOMMIT_ADD_ASSOCIATION])
    def _begin(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """A new router of ours is told apart from one that is served already."""
        if payload.metadata.get("new_driver") is not self:
            return
        router = payload.states[0]
        if isinstance(router, dict):
            return  # one from before there were providers, mapped when it was first asked for
        router.status = lib_constants.ROUTER_STATUS_ALLOCATING
        if not self._counts_agents:
            wants = flavors.wants_ha(payload.context, payload.request_body)
            payload.request_body["ha"] = wants
            l3_attrs_db.ExtraAttributesMixin.set_extra_attr_value(router, "ha", wants)

    @registry.receives(resources.FLOATING_IP, [events.PRECOMMIT_UPDATE])
    def _end_association(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """A floating IP that leaves a router of ours is DOWN: no orchestrator will say so of one that has no router."""
        former, now = payload.states[0], payload.desired_state
        if not former.get("router_id") or now.router_id or former["status"] == lib_constants.FLOATINGIP_STATUS_DOWN:
            return
        context = payload.context.elevated()
        if self.owns_router(context, former["router_id"]):
            router_objects.FloatingIP.update_object(
                context, {"status": lib_constants.FLOATINGIP_STATUS_DOWN}, id=former["id"]
            )
