"""Gives a router that is created without a flavor the operator's default one, whatever L3 plugin is loaded.

Runs before everything else that looks at a new router, so for all of them it was created with that flavor. Who wants
none says `flavor_id: null`, and gets what Neutron does without flavors.
"""

from typing import Any

from neutron_lib import constants as lib_constants
from neutron_lib import exceptions
from neutron_lib.callbacks import events, priority_group, registry, resources
from neutron_lib.exceptions import flavors as flavor_errors
from neutron_lib.plugins import constants, directory
from oslo_config import cfg
from oslo_log import log

from . import flavors, options

LOG = log.getLogger(__name__)

FIRST = priority_group.PRIORITY_ROUTER_EXTENDED_ATTRIBUTE - 200
"""Priority among the receivers of ROUTER BEFORE_CREATE; smaller ones are called earlier."""


_NO_PROVIDER: dict[type[Exception], str] = {
    flavor_errors.FlavorServiceProfileBindingNotFound: "has no service profile",
    flavor_errors.ServiceProfileDisabled: "has a service profile that is disabled",
    flavor_errors.ServiceProfileDriverNotFound: "has a service profile whose driver is not in [service_providers]",
}
"""What Neutron finds wrong with a flavor when it looks for the provider behind it."""


class DefaultFlavorUnusable(exceptions.ServiceUnavailable):
    """503: the operator named a default flavor that cannot be used."""

    message = f"Neutron's option [{options.GROUP}] default_flavor: %(reason)s"


def subscribe() -> None:
    """Begin; a second call changes nothing."""
    registry.subscribe(fill_in, resources.ROUTER, events.BEFORE_CREATE, priority=FIRST)


def fill_in(_resource: str, _event: str, _trigger: Any, payload: Any) -> None:
    """ROUTER BEFORE_CREATE. DefaultFlavorUnusable, which ends the request."""
    router = payload.latest_state
    asked = router.get("flavor_id", lib_constants.ATTR_NOT_SPECIFIED)
    if asked is None:
        # What Neutron understands; of None it says that there is no such flavor.
        router["flavor_id"] = lib_constants.ATTR_NOT_SPECIFIED
    elif asked == lib_constants.ATTR_NOT_SPECIFIED and (wanted := cfg.CONF[options.GROUP].default_flavor):
        try:
            router["flavor_id"] = _usable(payload.context.elevated(), wanted)
        except DefaultFlavorUnusable as error:
            LOG.error("%s", error)  # noqa: TRY400 - a plain line beside the traceback that Neutron writes
            # The receivers after this one are called all the same, and must not prepare a router for agents.
            router["ha"] = False
            raise


def _usable(context: Any, wanted: str) -> str:
    """Id of the flavor that has this id or name."""
    found = directory.get_plugin(constants.FLAVORS).get_flavors(context, filters={"service_type": [constants.L3]})
    matching = [one for one in found if one["id"] == wanted] or [one for one in found if one["name"] == wanted]
    if not matching:
        raise DefaultFlavorUnusable(reason=f"there is no router flavor {wanted!r}")
    if len(matching) > 1:
        raise DefaultFlavorUnusable(reason=f"several router flavors have the name {wanted!r}; give an id")
    if not matching[0]["enabled"]:
        raise DefaultFlavorUnusable(reason=f"the router flavor {wanted!r} is disabled")
    flavor_id: str = matching[0]["id"]
    try:
        flavors.provider_of(context, flavor_id)
    except tuple(_NO_PROVIDER) as error:
        raise DefaultFlavorUnusable(reason=f"the router flavor {wanted!r} {_NO_PROVIDER[type(error)]}") from error
    return flavor_id
