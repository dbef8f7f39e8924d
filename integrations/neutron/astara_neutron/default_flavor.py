"""Gives a router that is created without a flavor the operator's default one, whatever L3 plugin is loaded.

Runs before everything else that looks at a new router, so for all of them it was created with that flavor.
"""

from typing import Any

from neutron_lib.callbacks import events, priority_group, registry, resources
from neutron_lib.exceptions import flavors as flavor_errors
from neutron_lib.plugins import constants, directory
from oslo_config import cfg
from oslo_log import log

from . import options
from .flavors import is_given

LOG = log.getLogger(__name__)

FIRST = priority_group.PRIORITY_ROUTER_EXTENDED_ATTRIBUTE - 200
"""Priority among the receivers of ROUTER BEFORE_CREATE; smaller ones are called earlier."""


def subscribe() -> None:
    """Begin; a second call changes nothing."""
    registry.subscribe(fill_in, resources.ROUTER, events.BEFORE_CREATE, priority=FIRST)


def fill_in(_resource: str, _event: str, _trigger: Any, payload: Any) -> None:
    """ROUTER BEFORE_CREATE. FlavorNotFound or FlavorDisabled, which end the request, when it cannot be used."""
    wanted = cfg.CONF[options.GROUP].default_flavor
    router = payload.latest_state
    if not wanted or is_given(router):
        return
    context = payload.context.elevated()
    plugin = directory.get_plugin(constants.FLAVORS)
    found = plugin.get_flavors(context, filters={"service_type": [constants.L3]})
    flavor = next((one for one in found if wanted in (one["id"], one["name"])), None)
    if flavor is None:
        LOG.error("[%s] default_flavor: there is no router flavor %r", options.GROUP, wanted)
        raise flavor_errors.FlavorNotFound(flavor_id=wanted)
    if not flavor["enabled"]:
        LOG.error("[%s] default_flavor: the router flavor %r is disabled", options.GROUP, wanted)
        raise flavor_errors.FlavorDisabled
    router["flavor_id"] = flavor["id"]
