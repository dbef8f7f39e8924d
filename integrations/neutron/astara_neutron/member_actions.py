"""Extra routes and gateways that are added to a router and taken from it, with bodies that make sense.

Neutron looks at bodies of these calls only when they are put into effect, and at some not at all: what is wrong with
one is then an internal error. Here it is answered 400 with the field, before anything is changed. Where a body has no
object for the router, or gateways that are none, Neutron's policy fails before anybody here is asked.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from neutron.db import extraroute_db, l3_extra_gws_db
from neutron.objects import ports
from neutron_lib import constants, exceptions
from neutron_lib.api import attributes, validators
from neutron_lib.api.definitions import extraroute, l3, l3_ext_gw_multihoming
from neutron_lib.exceptions import l3_ext_gw_multihoming as gateway_errors

_ROUTES, _GATEWAYS = extraroute.ROUTES, l3_ext_gw_multihoming.EXTERNAL_GATEWAYS
_GATEWAY_ERRORS = (
    gateway_errors.UnableToAddExtraGateways,
    gateway_errors.UnableToMatchGateways,
    gateway_errors.UnableToRemoveGateways,
)


class WrongBodyError(exceptions.BadRequest):
    """400: the body of such a call."""

    message = "%(field)s: %(why)s"


class CheckedRoutes(extraroute_db.ExtraRoute_dbonly_mixin):
    """Extra routes."""

    def add_extraroutes(self, context: Any, router_id: str, body: Any = None) -> Any:
        """Add routes."""
        _check_routes(body)
        return super().add_extraroutes(context, router_id, body)

    def remove_extraroutes(self, context: Any, router_id: str, body: Any = None) -> Any:
        """Take routes away; those that are not there are no error."""
        _check_routes(body)
        return super().remove_extraroutes(context, router_id, body)


class CheckedGateways(l3_extra_gws_db.ExtraGatewaysDbOnlyMixin):
    """Several gateways."""

    def add_external_gateways(self, context: Any, router_id: str, body: Any = None) -> Any:
        """Add gateways."""
        _check_gateways(context, router_id, body)
        with _understood():
            return super().add_external_gateways(context, router_id, body)

    def update_external_gateways(self, context: Any, router_id: str, body: Any = None) -> Any:
        """Have these gateways and no others."""
        _check_gateways(context, router_id, body)
        with _understood():
            return super().update_external_gateways(context, router_id, body)

    def remove_external_gateways(self, context: Any, router_id: str, body: Any = None) -> Any:
        """Take gateways away."""
        _check_gateways(context, router_id, body)
        with _understood():
            return super().remove_external_gateways(context, router_id, body)


def _listed(body: Any, field: str, empty: tuple[Any, ...] = ()) -> list[Any]:
    """The field of a body's router, which is to be a list, or one of what stands for an empty one. WrongBodyError."""
    router = body.get(l3.ROUTER) if isinstance(body, dict) else None
    if not isinstance(router, dict):
        raise WrongBodyError(field=l3.ROUTER, why=f'an object with "{field}" is expected')
    value = router.get(field)
    if value in empty:
        return []
    if not isinstance(value, list):
        raise WrongBodyError(field=field, why="a list is expected")
    return value


def _check(field: str, value: Any, attribute: str) -> None:
    """WrongBodyError unless a value is what an attribute of routers may be."""
    for rule, allowed in attributes.RESOURCES[l3.ROUTERS][attribute]["validate"].items():
        if why := validators.get_validator(rule)(value, allowed):
            raise WrongBodyError(field=field, why=why)


def _check_routes(body: Any) -> None:
    _check(_ROUTES, _listed(body, _ROUTES), _ROUTES)


def _check_gateways(context: Any, router_id: str, body: Any) -> None:
    """Where a router has gateways on a network, Neutron knows them by their addresses alone.

    Of no gateways, the openstack client's `router unset` makes an empty object, and Neutron an empty list.
    """
    for index, gateway in enumerate(_listed(body, _GATEWAYS, empty=({},))):
        where = f"{_GATEWAYS}[{index}]"
        _check(where, gateway, l3.EXTERNAL_GW_INFO)
        network_id = gateway.get("network_id") if gateway else None
        if not network_id:
            raise WrongBodyError(field=f"{where}.network_id", why="the id of an external network is expected")
        if all("ip_address" in one for one in gateway.get("external_fixed_ips") or ()):
            continue
        owner = constants.DEVICE_OWNER_ROUTER_GW
        if ports.Port.get_ports_by_router_and_network(context.elevated(), router_id, owner, network_id):
            why = "ip_address is expected in each, since the router has a gateway on this network"
            raise WrongBodyError(field=f"{where}.external_fixed_ips", why=why)


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    """What Neutron finds wrong with gateways is the request's fault."""
    try:
        yield
    except _GATEWAY_ERRORS as error:
        why = f"{error}; name the router's own by network_id, and external_fixed_ips where it has several there"
        raise WrongBodyError(field=_GATEWAYS, why=why) from error
