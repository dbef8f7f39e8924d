"""A router with all that belongs to it, read in one transaction, as Neutron's API shows each part to an administrator.

The parts are made by the plugins that own them, so that what extensions add is there. Each part costs a fixed number of
questions to the database, however many objects it has.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any

from neutron.objects import port_forwarding as forwarding_objects
from neutron_lib.db import api as db_api
from neutron_lib.plugins import constants, directory
from oslo_config import cfg

from . import flavors, log, options
from .routers import GATEWAY, INTERNAL, Concerned, concerned

Json = dict[str, Any]

PARTS = ("revision", "dhcp", "router", "ha", "ports", "instance_ports", "networks", "subnets", "allocations",
         "floating_ips", "conntrack_helpers", "ndp_proxies", "metering_labels", "qos_policies")  # fmt: skip
_ALLOCATION = ("id", "network_id", "device_id", "device_owner", "mac_address", "fixed_ips", "description", "dns_name",
               "admin_state_up", "extra_dhcp_opts", "revision_number")  # fmt: skip
_FORWARDING = ("id", "protocol", "internal_port_id", "internal_ip_address", "internal_port", "external_port",
               "internal_port_range", "external_port_range", "description")  # fmt: skip

Page = tuple[list[Json], int, str | None]
"""Snapshots, the revision to ask for next, and the marker of the next page."""


def of(context: Any, router_id: str, instance: str | None) -> Json:
    """One snapshot. RouterNotFound."""
    context = context.elevated()
    with db_api.CONTEXT_READER.using(context) as session:
        told = log.revision(session)
        router = directory.get_plugin(constants.L3).get_router(context, router_id)
        found = _Snapshots(context, [router], PARTS, instance).all()[0]
        return {**found, "revision": told}


def listed(context: Any, told: int | None, limit: int, marker: str, parts: Collection[str]) -> Page:
    """A page of the routers that something changed since a revision; of all when it is None. UnknownRevisionError."""
    context = context.elevated()
    with db_api.CONTEXT_READER.using(context) as session:
        revision = log.revision(session)
        l3 = directory.get_plugin(constants.L3)
        if told is None:
            found: dict[str, Concerned] = {}
            routers = l3.get_routers(context, sorts=[("id", True)])
            routers = [router for router in routers if router["id"] > marker]
            page, more = routers[:limit], len(routers) > limit
            gone: list[Json] = []
            last = page[-1]["id"] if page else ""
        else:
            found = concerned(session, log.since(session, told))
            ids = sorted(one for one in found if one > marker)
            chosen, more = ids[:limit], len(ids) > limit
            last = chosen[-1] if chosen else ""
            alive = [one for one in chosen if not found[one].deleted]
            page = l3.get_routers(context, filters={"id": alive}) if alive else []
            gone = [
                {"id": one, "project_id": found[one].project_id, "deleted": True}
                for one in chosen
                if found[one].deleted
            ]
        snapshots = _Snapshots(context, page, parts, None).all()
        if "revision" in parts:
            for one in snapshots:
                one["revision"] = found[one["id"]].revision if one["id"] in found else revision
        return sorted([*snapshots, *gone], key=lambda one: str(one["id"])), revision, last if more else None


class _Snapshots:
    """Several routers' snapshots: each kind of object is read once for all of them."""

    def __init__(self, context: Any, routers: list[Json], parts: Collection[str], instance: str | None) -> None:
        self._context = context
        self._routers = routers
        self._parts = set(parts)
        self._core = directory.get_plugin()
        self._l3 = directory.get_plugin(constants.L3)
        ids = [router["id"] for router in routers]
        ports: list[Json] = []
        if ids and self._parts & {"ports", "networks", "subnets", "allocations"}:
            ports = self._core.get_ports(context, filters={"device_id": ids})
            ports = [port for port in ports if port["device_owner"] in (*INTERNAL, GATEWAY)]
        attached = sorted({port["network_id"] for port in ports})
        internal = sorted({port["network_id"] for port in ports if port["device_owner"] in INTERNAL})
        self._own = _grouped(ports, "device_id")
        self._networks = _grouped(self._read("networks", attached, "id", self._core.get_networks), "id")
        self._subnets = _grouped(self._read("subnets", attached, "network_id", self._core.get_subnets), "network_id")
        self._inside = _grouped(self._read("allocations", internal, "network_id", self._core.get_ports), "network_id")
        self._floating = _grouped(self._floating_ips(ids), "router_id")
        self._labels = self._read_labels()
        self._plugged: list[Json] = []
        if instance and "instance_ports" in self._parts:
            self._plugged = self._core.get_ports(context, filters={"device_id": [instance]})

    def all(self) -> list[Json]:
        """The snapshots, in the order of the routers, with the parts that are wanted and the id."""
        made: dict[str, Callable[[Json], Any]] = {
            "revision": lambda _router: 0,
            "dhcp": lambda _router: who_serves_dhcp(),
            "router": lambda router: router,
            "ha": lambda router: flavors.wants_ha(self._context, router),
            "ports": lambda router: self._own.get(router["id"], []),
            "instance_ports": lambda _router: self._plugged,
            "networks": lambda router: _of(self._networks, self._where(router)),
            "subnets": lambda router: _of(self._subnets, self._where(router)),
            "allocations": self._allocations,
            "floating_ips": lambda router: self._floating.get(router["id"], []),
            "conntrack_helpers": self._conntrack_helpers,
            "ndp_proxies": self._ndp_proxies,
            "metering_labels": lambda router: [
                label for label in self._labels if label["shared"] or label["project_id"] == router["project_id"]
            ],
            "qos_policies": self._policies,
        }
        return [
            {"id": router["id"], **{part: make(router) for part, make in made.items() if part in self._parts}}
            for router in self._routers
        ]

    def _where(self, router: Json, owners: Collection[str] = (*INTERNAL, GATEWAY)) -> list[str]:
        ports = self._own.get(router["id"], [])
        return sorted({port["network_id"] for port in ports if port["device_owner"] in owners})

    def _allocations(self, router: Json) -> list[Json]:
        ports = _of(self._inside, self._where(router, INTERNAL))
        return [{key: port.get(key) for key in _ALLOCATION} for port in ports]

    def _read(self, part: str, ids: list[str], name: str, read: Callable[..., list[Json]]) -> list[Json]:
        return read(self._context, filters={name: ids}) if ids and part in self._parts else []

    def _floating_ips(self, router_ids: list[str]) -> list[Json]:
        if not router_ids or not self._parts & {"floating_ips", "qos_policies"}:
            return []
        found: list[Json] = self._l3.get_floatingips(self._context, filters={"router_id": router_ids})
        forwardings: dict[str, list[Json]] = {}
        if found and directory.get_plugin(constants.PORTFORWARDING):
            ids = [one["id"] for one in found]
            for one in forwarding_objects.PortForwarding.get_objects(self._context, floatingip_id=ids):
                shown = one.to_dict()
                forwardings.setdefault(one.floatingip_id, []).append(
                    {key: shown[key] for key in _FORWARDING if key in shown}
                )
        for fip in found:
            fip["port_forwardings"] = forwardings.get(fip["id"], [])
        return found

    def _read_labels(self) -> list[Json]:
        plugin = directory.get_plugin(constants.METERING)
        if plugin is None or "metering_labels" not in self._parts or not self._routers:
            return []
        rules = _grouped(plugin.get_metering_label_rules(self._context), "metering_label_id")
        return [{**label, "rules": rules.get(label["id"], [])} for label in plugin.get_metering_labels(self._context)]

    def _conntrack_helpers(self, router: Json) -> list[Json]:
        plugin = directory.get_plugin(constants.CONNTRACKHELPER)
        if plugin is None:
            return []
        return [_plain(one) for one in plugin.get_router_conntrack_helpers(self._context, router["id"])]

    def _ndp_proxies(self, router: Json) -> list[Json]:
        plugin = directory.get_plugin(constants.NDPPROXY)
        if plugin is None:
            return []
        return [_plain(one) for one in plugin.get_ndp_proxies(self._context, filters={"router_id": [router["id"]]})]

    def _policies(self, router: Json) -> list[Json]:
        plugin = directory.get_plugin(constants.QOS)
        named = [(router.get("external_gateway_info") or {}).get("qos_policy_id")]
        named += [one.get("qos_policy_id") for one in self._floating.get(router["id"], [])]
        ids = sorted({str(one) for one in named if one})
        if plugin is None or not ids:
            return []
        return [_plain(one) for one in plugin.get_policies(self._context, filters={"id": ids})]


def who_serves_dhcp() -> str:
    """`appliance` or `neutron`: OVN serves it by itself, unless `[astara] dhcp` says otherwise."""
    chosen: str = cfg.CONF[options.GROUP].dhcp
    if chosen != options.AUTO:
        return chosen
    drivers = getattr(getattr(directory.get_plugin(), "mechanism_manager", None), "mech_drivers", {})
    return options.NEUTRON if {"ovn", "ovn-sync"} & set(drivers) else options.APPLIANCE


def _plain(one: Any) -> Json:
    plain: Json = one.to_dict() if hasattr(one, "to_dict") else dict(one)
    return plain


def _grouped(rows: Iterable[Json], name: str) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for row in rows:
        found.setdefault(row[name], []).append(row)
    return found


def _of(rows: dict[str, list[Json]], keys: Iterable[str]) -> list[Json]:
    return [row for key in keys for row in rows.get(key, ())]
