"""From entries of the log of changes to the routers that they concern, in a bounded number of questions."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.models import l3, metering
from neutron.db.qos import models as qos
from neutron_lib.db import standard_attr

from . import changes, marks
from .changes import GATEWAY, INTERNAL

_CHUNK = 500


@dataclass(slots=True)
class Concerned:
    """A router of which something changed: the newest entry, and what kinds of things."""

    revision: int = 0
    project_id: str = ""
    deleted: bool = False
    kinds: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log."""

    id: int
    touched: changes.Touched


def concerned(session: Any, entries: Iterable[Entry]) -> dict[str, Concerned]:
    """The routers, by id, each with its project; one that is gone is `deleted`."""
    by_kind: dict[str, dict[str, int]] = {}
    deleted: dict[str, str] = {}
    for entry in entries:
        one = entry.touched
        known = by_kind.setdefault(one.kind, {})
        known[one.object_id] = max(known.get(one.object_id, 0), entry.id)
        if one.kind == changes.ROUTER and one.deleted:
            deleted[one.object_id] = one.project_id
    found: dict[str, Concerned] = {}
    for kind, objects in by_kind.items():
        for router_id, object_id in _routers_of(session, kind, objects):
            one_found = found.setdefault(router_id, Concerned())
            one_found.revision = max(one_found.revision, objects[object_id])
            one_found.kinds.add(kind)
    projects = dict(_rows(session, sa.select(l3.Router.id, l3.Router.project_id), l3.Router.id, found))
    for router_id in list(found):
        one_found = found[router_id]
        if router_id in projects:
            one_found.project_id = projects[router_id] or ""
        elif router_id in deleted:
            one_found.project_id, one_found.deleted = deleted[router_id], True
        else:
            # Its deletion is an entry of its own, in this page of the log or another.
            del found[router_id]
    return found


def _routers_of(session: Any, kind: str, objects: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Pairs of a router and the object of this kind that concerns it."""
    port, subnet = models_v2.Port, models_v2.Subnet
    if kind == changes.ROUTER:
        yield from ((one, one) for one in objects)
    elif kind == changes.PORTS:
        yield from _attached(session, port.network_id, objects, INTERNAL)
    elif kind == changes.NETWORK:
        yield from _attached(session, port.network_id, objects, (*INTERNAL, GATEWAY))
    elif kind == changes.SUBNET:
        networks = _rows(session, sa.select(subnet.network_id, subnet.id), subnet.id, objects)
        yield from _through(session, networks, (*INTERNAL, GATEWAY))
    elif kind == changes.PORT:
        yield from _of_ports(session, port.id, objects)
    elif kind == changes.FLOATING_IP:
        fip = l3.FloatingIP
        query = sa.select(fip.router_id, fip.id).where(fip.router_id.is_not(None))
        yield from _rows(session, query, fip.id, objects)
    elif kind == changes.QOS_POLICY:
        gateway, floating = qos.QosRouterGatewayIPPolicyBinding, qos.QosFIPPolicyBinding
        yield from _rows(session, sa.select(gateway.router_id, gateway.policy_id), gateway.policy_id, objects)
        query = sa.select(l3.FloatingIP.router_id, floating.policy_id).where(
            l3.FloatingIP.id == floating.fip_id, l3.FloatingIP.router_id.is_not(None)
        )
        yield from _rows(session, query, floating.policy_id, objects)
    elif kind == changes.ATTRIBUTES:
        yield from _of_attributes(session, [int(one) for one in objects])
    else:
        yield from _labelled(session, kind, objects)


def _of_ports(session: Any, column: Any, values: Collection[Any]) -> Iterator[tuple[str, Any]]:
    """Pairs of a router and the value of the column; a router's own ports concern it, those of tenants its networks."""
    port, attributes = models_v2.Port, standard_attr.StandardAttribute
    own, inside = [], []
    query = sa.select(port.device_owner, port.device_id, port.network_id, attributes.description, column)
    query = query.join(attributes, attributes.id == port.standard_attr_id)
    for owner, device_id, network_id, description, value in _rows(session, query, column, values):
        if owner in (*INTERNAL, GATEWAY):
            own.append((device_id, value))
        elif marks.parse(description) is None:
            inside.append((network_id, value))
    yield from own
    yield from _through(session, inside, INTERNAL)


def _of_attributes(session: Any, numbers: Collection[int]) -> Iterator[tuple[str, str]]:
    """Pairs of a router and the row of standard attributes, as text, that concerns it."""
    router, floating_ip, network, subnet = l3.Router, l3.FloatingIP, models_v2.Network, models_v2.Subnet
    found: list[Any] = []
    for model, router_id in ((router, router.id), (floating_ip, floating_ip.router_id)):
        found += _rows(session, sa.select(router_id, model.standard_attr_id), model.standard_attr_id, numbers)
    found += _of_ports(session, models_v2.Port.standard_attr_id, numbers)
    for model, network_id in ((network, network.id), (subnet, subnet.network_id)):
        query = sa.select(network_id, model.standard_attr_id)
        found += _through(session, _rows(session, query, model.standard_attr_id, numbers), (*INTERNAL, GATEWAY))
    yield from ((router_id, str(number)) for router_id, number in found if router_id)


def _labelled(session: Any, kind: str, objects: dict[str, int]) -> Iterator[tuple[str, str]]:
    router = l3.Router
    if kind == changes.ALL:
        newest = max(objects, key=objects.__getitem__)
        yield from ((row[0], newest) for row in session.execute(sa.select(router.id)))
    elif kind == changes.PROJECT:
        yield from _rows(session, sa.select(router.id, router.project_id), router.project_id, objects)
    elif kind == changes.LABEL:
        label = metering.MeteringLabel
        for label_id, project, shared in _rows(
            session, sa.select(label.id, label.project_id, label.shared), label.id, objects
        ):
            query = sa.select(router.id) if shared else sa.select(router.id).where(router.project_id == project)
            yield from ((row[0], label_id) for row in session.execute(query))


def _attached(session: Any, column: Any, objects: Collection[str], owners: tuple[str, ...]) -> Iterator[Any]:
    port = models_v2.Port
    query = sa.select(port.device_id, column).where(port.device_owner.in_(owners))
    yield from _rows(session, query, column, objects)


def _through(session: Any, pairs: Iterable[Any], owners: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """From pairs of a network and what concerns it to pairs with the routers on it."""
    causes: dict[str, list[Any]] = {}
    for network_id, object_id in pairs:
        causes.setdefault(network_id, []).append(object_id)
    for router_id, network_id in _attached(session, models_v2.Port.network_id, causes, owners):
        yield from ((router_id, object_id) for object_id in causes[network_id])


def _rows(session: Any, query: Any, column: Any, values: Collection[Any]) -> Iterator[Any]:
    """The rows whose column has one of the values, asked for in parts."""
    chosen = list(values)
    for start in range(0, len(chosen), _CHUNK):
        yield from (tuple(row) for row in session.execute(query.where(column.in_(chosen[start : start + _CHUNK]))))
