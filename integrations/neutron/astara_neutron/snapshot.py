"""A router with all that belongs to it, read in one transaction, as Neutron's API shows each part to an administrator.

The parts are made by the plugins that own them, so that what extensions add is there. Each part costs a fixed number of
questions to the database, however many objects it has.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.models import l3, metering
from neutron.objects import conntrack_helper as helper_objects
from neutron.objects import ndp_proxy as proxy_objects
from neutron.objects import port_forwarding as forwarding_objects
from neutron_lib import exceptions
from neutron_lib.api import attributes
from neutron_lib.db import api as db_api
from neutron_lib.plugins import constants, directory
from oslo_config import cfg
from oslo_log import log as logging
from oslo_serialization import jsonutils
from sqlalchemy import orm

from . import flavors, log, options
from .changes import GATEWAY, INTERNAL
from .routers import Concerned, concerned

LOG = logging.getLogger(__name__)

Json = dict[str, Any]

PARTS = ("revision", "dhcp", "router", "ha", "ports", "instance_ports", "networks", "subnets", "allocations",
         "floating_ips", "conntrack_helpers", "ndp_proxies", "metering_labels", "qos_policies")  # fmt: skip
_ALLOCATION = ("id", "network_id", "device_id", "device_owner", "mac_address", "fixed_ips", "description", "dns_name",
               "admin_state_up", "extra_dhcp_opts", "revision_number")  # fmt: skip
_FORWARDING = ("id", "protocol", "internal_port_id", "internal_ip_address", "internal_port", "external_port",
               "internal_port_range", "external_port_range", "description")  # fmt: skip
_LABEL = ("id", "name", "description", "shared", "project_id")
_RULE = ("id", "metering_label_id", "direction", "remote_ip_prefix", "source_ip_prefix", "destination_ip_prefix",
         "excluded")  # fmt: skip

_SYNONYMS = {"project_id": "tenant_id"}

Page = tuple[list[Json], int, str | None]
"""Snapshots, the revision to ask for next, and the marker of the next page."""


def of(context: Any, router_id: str, instance: str | None) -> Json:
    """One snapshot. RouterNotFound."""
    context = context.elevated()
    with _read_once(context) as session:
        # The first read: with it begins what the whole transaction sees.
        told = log.revision(session)
        router = directory.get_plugin(constants.L3).get_router(context, router_id)
        found = _Snapshots(context, [router], PARTS, instance).all()[0]
        return {**found, "revision": told}


def listed(context: Any, told: int | None, limit: int, marker: str, parts: Collection[str]) -> Page:
    """A page of the routers that something changed since a revision; of all when it is None. UnknownRevisionError."""
    context = context.elevated()
    with _read_once(context) as session:
        revision = log.revision(session)
        if told is None:
            query = sa.select(l3.Router.id).where(l3.Router.id > marker).order_by(l3.Router.id).limit(limit + 1)
            found = {router_id: Concerned(revision) for router_id in session.execute(query).scalars()}
        else:
            found = concerned(session, log.since(session, told))
        ids = sorted(one for one in found if one > marker)
        chosen = ids[:limit]
        gone = [one for one in chosen if found[one].deleted]
        alive = [one for one in chosen if not found[one].deleted]
        plugin = directory.get_plugin(constants.L3)
        routers = plugin.get_routers(context, filters={"id": alive}) if alive else []
        rows = [{"id": one, "project_id": found[one].project_id, "deleted": True} for one in gone]
        for row in _Snapshots(context, routers, parts, None).all():
            if "revision" in parts:
                row["revision"] = found[row["id"]].revision
            rows.append(row)
    return sorted(rows, key=lambda row: str(row["id"])), revision, chosen[-1] if len(ids) > limit else None


class _Snapshots:
    """Several routers' snapshots: each kind of object is read once for all of them."""

    def __init__(self, context: Any, routers: list[Json], parts: Collection[str], instance: str | None) -> None:
        self._context = context
        self._routers = routers
        self._parts = set(parts)
        self._core = directory.get_plugin()
        self._l3 = directory.get_plugin(constants.L3)
        ids = [router["id"] for router in routers]
        owners = self._owners(ids)
        ports = self._read_ports(owners, instance)
        self._own: dict[str, list[Json]] = {}
        for port in ports:
            if port["id"] in owners:
                self._own.setdefault(owners[port["id"]], []).append(port)
        own = [port for found in self._own.values() for port in found]
        self._inside = _grouped(ports, "network_id")
        self._plugged = [port for port in ports if instance and port["device_id"] == instance]
        attached = sorted({port["network_id"] for port in own})
        self._networks = self._part("networks", "id", attached, self._core.get_networks)
        self._subnets = self._part("subnets", "network_id", attached, self._core.get_subnets)
        self._floating = _grouped(self._floating_ips(ids), "router_id")
        self._helpers = self._of_routers("conntrack_helpers", constants.CONNTRACKHELPER, helper_objects.ConntrackHelper)
        self._proxies = self._of_routers("ndp_proxies", constants.NDPPROXY, proxy_objects.NDPProxy)
        self._labels = self._read_labels()
        self._policies = self._read_policies()
        self._ha: dict[Any, bool] = {}

    def all(self) -> list[Json]:
        """The snapshots, in the order of the routers, with the parts that are wanted and the id."""
        made: dict[str, Callable[[Json], Any]] = {
            "dhcp": lambda _router: who_serves_dhcp(),
            "router": lambda router: _shown("routers", router),
            "ha": self._wants_ha,
            "ports": lambda router: self._own.get(router["id"], []),
            "instance_ports": lambda _router: self._plugged,
            "networks": lambda router: _of(self._networks, self._where(router)),
            "subnets": lambda router: _of(self._subnets, self._where(router)),
            "allocations": self._allocations,
            "floating_ips": lambda router: self._floating.get(router["id"], []),
            "conntrack_helpers": lambda router: self._helpers.get(router["id"], []),
            "ndp_proxies": lambda router: self._proxies.get(router["id"], []),
            "metering_labels": lambda router: [
                label for label in self._labels if label["shared"] or label["project_id"] == router["project_id"]
            ],
            "qos_policies": lambda router: _of(self._policies, self._policy_ids(router)),
        }
        return [
            {"id": router["id"], **{part: make(router) for part, make in made.items() if part in self._parts}}
            for router in self._routers
        ]

    def _where(self, router: Json, owners: Collection[str] = (*INTERNAL, GATEWAY)) -> list[str]:
        ports = self._own.get(router["id"], [])
        return sorted({port["network_id"] for port in ports if port["device_owner"] in owners})

    def _wants_ha(self, router: Json) -> bool:
        """As `flavors.wants_ha`, once a flavor; a profile that nobody can read must not hide all routers."""
        key = (router.get("flavor_id"), router.get("ha"))
        if key not in self._ha:
            try:
                self._ha[key] = flavors.wants_ha(self._context, router)
            except exceptions.NeutronException as error:
                LOG.warning("the flavor of router %s tells nothing of high availability: %s", router["id"], error)
                self._ha[key] = router.get("ha") is True
        return self._ha[key]

    def _allocations(self, router: Json) -> list[Json]:
        ports = _of(self._inside, self._where(router, INTERNAL))
        return [{key: port[key] for key in _ALLOCATION if key in port} for port in ports]

    def _owners(self, router_ids: list[str]) -> dict[str, str]:
        """The router of each port that Neutron has given one; a tenant may write any router's id into `device_id`."""
        if not router_ids or not self._parts & {"ports", "networks", "subnets", "allocations"}:
            return {}
        own = l3.RouterPort
        query = sa.select(own.port_id, own.router_id).where(
            own.router_id.in_(router_ids), own.port_type.in_((*INTERNAL, GATEWAY))
        )
        return {row.port_id: row.router_id for row in self._context.session.execute(query)}

    def _read_ports(self, own: Collection[str], instance: str | None) -> list[Json]:
        """The routers' own ports, the instance's, and all on internal networks: ids first, then all read at once."""
        session, port, interface = self._context.session, models_v2.Port, orm.aliased(models_v2.Port)
        wanted = set(own)
        if own and "allocations" in self._parts:
            inside = sa.select(interface.network_id).where(interface.id.in_(own), interface.device_owner.in_(INTERNAL))
            wanted |= set(session.execute(sa.select(port.id).where(port.network_id.in_(inside))).scalars())
        if instance and "instance_ports" in self._parts:
            wanted |= set(session.execute(sa.select(port.id).where(port.device_id == instance)).scalars())
        return self._read("ports", "id", sorted(wanted), self._core.get_ports)

    def _read(self, collection: str, name: str, ids: list[str], read: Callable[..., list[Json]]) -> list[Json]:
        """Objects of which a field has one of some values, as the API shows them."""
        return [_shown(collection, row) for row in read(self._context, filters={name: ids})] if ids else []

    def _part(self, part: str, name: str, ids: list[str], read: Callable[..., list[Json]]) -> dict[str, list[Json]]:
        return _grouped(self._read(part, name, ids, read), name) if part in self._parts else {}

    def _floating_ips(self, router_ids: list[str]) -> list[Json]:
        if not self._parts & {"floating_ips", "qos_policies"}:
            return []
        found = self._read("floatingips", "router_id", router_ids, self._l3.get_floatingips)
        forwardings: dict[str, list[Json]] = {}
        if found and directory.get_plugin(constants.PORTFORWARDING):
            ids = [one["id"] for one in found]
            for one in forwarding_objects.PortForwarding.get_objects(self._context, floatingip_id=ids):
                shown = one.to_dict()
                kept = {key: shown[key] for key in _FORWARDING if key in shown}
                forwardings.setdefault(one.floatingip_id, []).append(kept)
        for fip in found:
            fip["port_forwardings"] = forwardings.get(fip["id"], [])
        return found

    def _of_routers(self, part: str, plugin: str, model: Any) -> dict[str, list[Json]]:
        """Objects of a plugin, where there is one, that belong to the routers."""
        if part not in self._parts or not self._routers or directory.get_plugin(plugin) is None:
            return {}
        ids = [router["id"] for router in self._routers]
        return _grouped((_plain(one) for one in model.get_objects(self._context, router_id=ids)), "router_id")

    def _read_labels(self) -> list[Json]:
        if (
            directory.get_plugin(constants.METERING) is None
            or "metering_labels" not in self._parts
            or not self._routers
        ):
            return []
        # Not the plugin's call: with each label it loads all routers of the label's project.
        session, label, rule = self._context.session, metering.MeteringLabel, metering.MeteringLabelRule
        projects = {router["project_id"] for router in self._routers}
        wanted = sa.or_(label.project_id.in_(projects), label.shared.is_(sa.true()))
        labels = _columns(session, label, _LABEL, wanted)
        rules = _columns(session, rule, _RULE, rule.metering_label_id.in_([one["id"] for one in labels]))
        of_label = _grouped(rules, "metering_label_id")
        return [{**one, "rules": of_label.get(one["id"], [])} for one in labels]

    def _policy_ids(self, router: Json) -> list[str]:
        named = [(router.get("external_gateway_info") or {}).get("qos_policy_id")]
        named += [one.get("qos_policy_id") for one in self._floating.get(router["id"], [])]
        return sorted({str(one) for one in named if one})

    def _read_policies(self) -> dict[str, list[Json]]:
        plugin = directory.get_plugin(constants.QOS)
        ids = sorted({one for router in self._routers for one in self._policy_ids(router)})
        if plugin is None or "qos_policies" not in self._parts or not ids:
            return {}
        return _grouped((_plain(one) for one in plugin.get_policies(self._context, filters={"id": ids})), "id")


def who_serves_dhcp() -> str:
    """`appliance` or `neutron`: OVN serves it by itself, unless `[astara] dhcp` says otherwise."""
    chosen: str = cfg.CONF[options.GROUP].dhcp
    if chosen != options.AUTO:
        return chosen
    drivers = getattr(getattr(directory.get_plugin(), "mechanism_manager", None), "mech_drivers", {})
    return options.NEUTRON if {"ovn", "ovn-sync"} & set(drivers) else options.APPLIANCE


def _plain(one: Any) -> Json:
    """An object of a plugin as JSON has it: some have addresses and objects within."""
    plain: Json = jsonutils.to_primitive(one.to_dict() if hasattr(one, "to_dict") else one)
    return plain


def _columns(session: Any, model: Any, names: Iterable[str], condition: Any) -> list[Json]:
    query = sa.select(*(getattr(model, name) for name in names)).where(condition).order_by(model.id)
    return [dict(row) for row in session.execute(query).mappings()]


@contextlib.contextmanager
def _read_once(context: Any) -> Iterator[Any]:
    """A transaction's session that remembers what it has read: what plugins ask for again, it does not ask again."""
    with db_api.CONTEXT_READER.using(context) as session:
        held: list[Any] = []

        def hold(_session: Any, row: Any) -> None:
            held.append(row)

        sa.event.listen(session, "loaded_as_persistent", hold)
        try:
            yield session
        finally:
            sa.event.remove(session, "loaded_as_persistent", hold)


def _shown(collection: str, row: Json) -> Json:
    """What the API shows of an object to an administrator."""
    known = attributes.RESOURCES.get(collection, {})
    hidden = {key for key in row if not known.get(_SYNONYMS.get(key, key), {}).get("is_visible")}
    return {key: value for key, value in row.items() if key not in hidden}


def _grouped(rows: Iterable[Json], name: str) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for row in rows:
        found.setdefault(row[name], []).append(row)
    return found


def _of(rows: dict[str, list[Json]], keys: Iterable[str]) -> list[Json]:
    return [row for key in keys for row in rows.get(key, ())]
