"""What a router's flavor says: whose it is, and whether it is to be highly available."""

import json
from typing import Any

from neutron_lib import constants as lib_constants
from neutron_lib import exceptions
from neutron_lib.plugins import constants, directory

Router = dict[str, Any]


def is_given(router: Router) -> bool:
    """Whether a request to create a router, or a router, names a flavor."""
    return router.get("flavor_id") not in (None, lib_constants.ATTR_NOT_SPECIFIED)


def provider_of(context: Any, flavor_id: str) -> str:
    """Name of the service provider behind a flavor. The flavor plugin's errors when there is none."""
    plugin = directory.get_plugin(constants.FLAVORS)
    name: str = plugin.get_flavor_next_provider(context.elevated(), flavor_id)[0]["provider"]
    return name


def is_enabled(context: Any, flavor_id: str) -> bool:
    """Whether new routers may have a flavor. FlavorNotFound."""
    return bool(directory.get_plugin(constants.FLAVORS).get_flavor(context.elevated(), flavor_id)["enabled"])


def profile_of(context: Any, flavor_id: str) -> dict[str, Any]:
    """`metainfo` of a flavor's service profile, a JSON object. InvalidInput when it is something else."""
    context = context.elevated()
    plugin = directory.get_plugin(constants.FLAVORS)
    profiles = plugin.get_flavor(context, flavor_id)["service_profiles"]
    text = plugin.get_service_profile(context, profiles[0])["metainfo"] if profiles else ""
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("ha", False), bool):
        message = (
            f"The service profile of router flavor {flavor_id} has a metainfo that is not understood: a JSON object is "
            'expected, such as {"ha": true}'
        )
        raise exceptions.InvalidInput(error_message=message)
    return found


def wants_ha(context: Any, router: Router) -> bool:
    """Whether a router is to have a pair of instances: its flavor's profile says so or, without one, its own `ha`."""
    if is_given(router):
        profile = profile_of(context, router["flavor_id"])
        if "ha" in profile:
            return bool(profile["ha"])
    return router.get("ha") is True
