"""Extra routes and gateways that are added to a router and taken from it, with bodies that make sense.

Neutron looks at bodies of these calls only when they are put into effect, and at some not at all: what is wrong with
one is then an internal error. Here it is answered 400 with the field. Where a body has no object for the router, or
gateways that are none, Neutron's policy fails before anybody here is asked.

Neutron changes one gateway after another, each in a transaction of its own, and takes nothing back. So what can be
known is looked at before anything is changed: gateways, networks, addresses, policies, and floating IPs that need a
gateway that goes. What shows itself only when a gateway is made, such as a subnet without a free address, another
request at the same time, or another plugin's objection, leaves what came before it in effect.
"""

import contextlib
import ipaddress
import itertools
from collections.abc import Collection, Iterator
from typing import Any

from neutron.db import extraroute_db, l3_extra_gws_db
from neutron.ipam import utils as ipam_utils
from neutron.objects import ports
from neutron.objects import router as router_objects
from neutron.objects.qos import policy as policy_objects
from neutron_lib import constants, exceptions
from neutron_lib.api import attributes, validators
from neutron_lib.api.definitions import extraroute, l3, l3_ext_gw_multihoming
from neutron_lib.db import api as db_api
from neutron_lib.exceptions import l3 as l3_errors
from neutron_lib.exceptions import l3_ext_gw_multihoming as gateway_errors
from neutron_lib.services.qos import constants as qos_constants

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
        gateways = _checked_gateways(context, router_id, body)
        with _understood():
            with db_api.CONTEXT_READER.using(context):
                router = self._get_router(context, router_id)
                self._check_new(context, router, gateways, ())
                self._check_overlaps(context, router, gateways)
                _check_policies(context, router, gateways, is_first=router.gw_port is None)
            return super().add_external_gateways(context, router_id, body)

    def update_external_gateways(self, context: Any, router_id: str, body: Any = None) -> Any:
        """Have these gateways and no others."""
        gateways = _checked_gateways(context, router_id, body)
        with _understood():
            with db_api.CONTEXT_READER.using(context):
                router = self._get_router(context, router_id)
                self._check_new(context, router, gateways, _networks(router))
                _check_policies(context, router, gateways, is_first=True)
                going, first_goes = self._going(context, router, gateways)
                stays = {gateways[0]["network_id"]} if gateways else set()
                self._check_floating_ips(context, router, going, stays, first_goes=first_goes)
            return super().update_external_gateways(context, router_id, body)

    def remove_external_gateways(self, context: Any, router_id: str, body: Any = None) -> Any:
        """Take gateways away."""
        gateways = _checked_gateways(context, router_id, body)
        with _understood():
            with db_api.CONTEXT_READER.using(context):
                router = self._get_router(context, router_id)
                going = self._match_requested_gateway_ports(context, router_id, gateways)[1]
                self._check_floating_ips(context, router, going, set(), first_goes=router.gw_port_id in going)
            return super().remove_external_gateways(context, router_id, body)

    def _check_new(self, context: Any, router: Any, gateways: list[Any], own: Collection[str]) -> None:
        """Networks are external ones, addresses lie in their subnets and are free, or belong to one of these ports."""
        named = set()
        for index, gateway in enumerate(gateways):
            field = f"{_GATEWAYS}[{index}].external_fixed_ips"
            network_id, fixed_ips = gateway["network_id"], gateway.get("external_fixed_ips") or ()
            self._validate_gw_info(context, gateway, fixed_ips, router)
            subnets = self._core_plugin.get_subnets_by_network(context.elevated(), network_id)
            for fixed_ip in fixed_ips:
                _check_in_subnets(field, fixed_ip, subnets)
                if "ip_address" not in fixed_ip:
                    continue
                address = str(ipaddress.ip_address(fixed_ip["ip_address"]))
                if (network_id, address) in named:
                    raise WrongBodyError(field=field, why=f"{address} is named twice")
                named.add((network_id, address))
                wanted = {"network_id": network_id, "ip_address": address}
                if any(one.port_id not in own for one in ports.IPAllocation.get_objects(context.elevated(), **wanted)):
                    raise exceptions.IpAddressInUse(net_id=network_id, ip_address=address)

    def _check_overlaps(self, context: Any, router: Any, gateways: list[Any]) -> None:
        """Subnets of the networks overlap with none of the router's, nor with those of each other."""
        new = {}
        for network_id in {one["network_id"] for one in gateways}:
            new[network_id] = self._core_plugin.get_subnets_by_network(context.elevated(), network_id)
            self._check_for_dup_router_subnets(context, router, new[network_id], constants.DEVICE_OWNER_ROUTER_GW)
        for some, others in itertools.combinations(new.values(), 2):
            for one, other in itertools.product(some, others):
                self._raise_on_subnets_overlap(one, other)

    def _going(self, context: Any, router: Any, gateways: list[Any]) -> tuple[set[str], bool]:
        """The ports that a router has no more when it has these gateways, and whether its first one goes.

        The first of the gateways becomes the router's first: the port that it is already, or the router's first itself,
        moved within its network or deleted for a new one.
        """
        own, first = _networks(router), router.gw_port_id
        if not gateways:
            return set(own), first is not None
        firsts = self._match(context, router, gateways[:1])
        first_goes = not firsts and first is not None and own[first] != gateways[0]["network_id"]
        stay = {*(firsts or {first}), *self._match(context, router, gateways[1:])} - ({first} if first_goes else set())
        return set(own) - stay, first_goes

    def _match(self, context: Any, router: Any, gateways: list[Any]) -> set[str]:
        """The ports that are these gateways already, with all or some of their addresses."""
        found = self._match_requested_gateway_ports(context, router.id, gateways, no_match_fixed_ip_fatal=False)
        return set(found[1])

    def _check_floating_ips(
        self, context: Any, router: Any, going: Collection[str], stays: set[str], *, first_goes: bool
    ) -> None:
        """RouterExternalGatewayInUseByFloatingIp, as Neutron would find it on its way.

        `stays` are networks on which there is a gateway all the time.
        """
        context, own = context.elevated(), _networks(router)
        if first_goes and self.router_gw_port_has_floating_ips(context, router.id):
            raise l3_errors.RouterExternalGatewayInUseByFloatingIp(router_id=router.id, net_id=own[router.gw_port_id])
        kept = stays | {network for port_id, network in own.items() if port_id not in going}
        for network in {own[port_id] for port_id in going} - kept:
            of_router = {"router_id": [router.id], "floating_network_id": [network]}
            if router_objects.FloatingIP.count(context, **of_router):
                raise l3_errors.RouterExternalGatewayInUseByFloatingIp(router_id=router.id, net_id=network)


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


def _checked_gateways(context: Any, router_id: str, body: Any) -> list[Any]:
    """Where a router has gateways on a network, Neutron knows them by their addresses alone.

    Of no gateways, the openstack client's `router unset` makes an empty object, and Neutron an empty list.
    """
    gateways = _listed(body, _GATEWAYS, empty=({},))
    for index, gateway in enumerate(gateways):
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
    return gateways


def _networks(router: Any) -> dict[str, str]:
    """The ports that are gateways of a router, each with its network."""
    own = (one.port for one in router.attached_ports)
    return {port.id: port.network_id for port in own if port.device_owner == constants.DEVICE_OWNER_ROUTER_GW}


def _check_in_subnets(field: str, fixed_ip: dict[str, str], subnets: list[dict[str, Any]]) -> None:
    subnet_id, address = fixed_ip.get("subnet_id"), fixed_ip.get("ip_address")
    chosen = [one for one in subnets if subnet_id in (None, one["id"])]
    if not chosen:
        raise WrongBodyError(field=field, why=f"subnet {subnet_id} is not of the gateway's network")
    if address is None and subnet_id is None:
        raise WrongBodyError(field=field, why="subnet_id or ip_address is expected in each")
    owner = constants.DEVICE_OWNER_ROUTER_GW
    if address and not any(ipam_utils.check_subnet_ip(one["cidr"], address, owner) for one in chosen):
        where = f"subnet {subnet_id}" if subnet_id else "any subnet of the gateway's network"
        raise WrongBodyError(field=field, why=f"{address} is not an address of {where}")


def _check_policies(context: Any, router: Any, gateways: list[Any], *, is_first: bool) -> None:
    """A router has one policy of QoS for its gateways. Neutron takes it from the first, and forgets others."""
    key = qos_constants.QOS_POLICY_ID
    kept = router.qos_policy_binding.policy_id if router.qos_policy_binding else None
    wanted = gateways[0].get(key, kept) if is_first and gateways else kept
    for index, gateway in enumerate(gateways):
        policy_id = gateway.get(key, wanted)
        if policy_id != kept and policy_id is not None:
            policy_objects.QosPolicy.get_policy_obj(context, policy_id)
        if policy_id != wanted:
            why = "a router has one policy for all its gateways; give it with the first, or in external_gateway_info"
            raise WrongBodyError(field=f"{_GATEWAYS}[{index}].{key}", why=why)


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    """What Neutron finds wrong with gateways is the request's fault."""
    try:
        yield
    except _GATEWAY_ERRORS as error:
        why = f"{error}; name the router's own by network_id, and external_fixed_ips where it has several there"
        raise WrongBodyError(field=_GATEWAYS, why=why) from error
