"""The log of changes: what each transaction touched of any router's snapshot, kept in the same transaction.

True at all times: an entry is visible exactly when the change is; entries are only appended, so no two requests wait
for each other here; nothing is asked of the database to write one, so a port on a network without routers costs one row
of the same insert. Which routers an entry concerns is found when somebody reads (`routers.py`), not when it is written.

What our own status write-back writes is left out: it would make the orchestrator look at what it has just told. So are
changes of tenants' ports that bear our mark: only the orchestrator makes them, and no configuration depends on them.

Statements that change rows past the session (`query.update()`, `query.delete()`) are not seen here. In Neutron 26 to
29 none of them writes what belongs to a snapshot: objects with standard attributes are updated one by one,
`delete_objects` deletes through the session, and what is left writes bindings, allocations of segments and numbers of
revisions.
"""

import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.extra_dhcp_opt import models as dhcp_models
from neutron.db.models import (
    conntrack_helper,
    dns,
    external_net,
    flavor,
    l3,
    l3_attrs,
    metering,
    ndp_proxy,
    port_forwarding,
    tag,
)
from neutron.db.qos import models as qos
from neutron_lib.db import api as db_api
from neutron_lib.db import standard_attr
from sqlalchemy.orm import session as orm_session

from . import marks
from .db.models import Change

OWN = "astara_writes_status"
"""Key of a session's `info` while what is written must not be logged."""
_KEPT = "astara_changes"

ROUTER, PORTS, NETWORK, SUBNET, PORT = "router", "ports", "network", "subnet", "port"
FLOATING_IP, QOS_POLICY, LABEL, PROJECT, ALL = "floatingip", "qos_policy", "label", "project", "all"
ATTRIBUTES = "attributes"
"""Kinds of entries; `ports` is a network whose tenants' ports changed, `network` one that changed itself, `attributes`
an object that is known by the number of its row of standard attributes."""

INTERNAL = (
    "network:router_interface",
    "network:router_interface_distributed",
    "network:ha_router_replicated_interface",
)
GATEWAY = "network:router_gateway"
"""Owners of routers' ports."""


@dataclass(frozen=True, slots=True)
class Touched:
    """One thing that a transaction touched."""

    kind: str
    object_id: str
    project_id: str = ""
    deleted: bool = False


class Changes:
    """Listens to all sessions; `committed` hears of what each transaction touched, after its commit."""

    def __init__(self, committed: Callable[[list[Touched]], None]) -> None:
        self._committed = committed
        for event, listener in (
            ("before_flush", self._note_deleted),
            ("after_flush", self._keep),
            ("after_commit", self._tell),
            ("after_soft_rollback", self._forget),
        ):
            db_api.sqla_listen(orm_session.Session, event, listener)

    def _note_deleted(self, session: Any, _context: Any, _instances: Any) -> None:
        """Before the flush: an object that is going can still be read."""
        if session.info.get(OWN):
            return
        for one in session.deleted:
            _transaction(session).noted.update(dict.fromkeys(touched_by(one, deleted=True)))

    def _keep(self, session: Any, _context: Any) -> None:
        """After the flush, when new objects have their ids and what others were is still known: one insert."""
        if session.info.get(OWN):
            return
        noted: dict[Touched, None] = {}
        if _KEPT in session.info:
            noted, session.info[_KEPT].noted = session.info[_KEPT].noted, {}
        for one in session.new:
            noted.update(dict.fromkeys(touched_by(one)))
        for one in session.dirty:
            if session.is_modified(one, include_collections=False):
                noted.update(dict.fromkeys(touched_by(one)))
        if not noted:
            return
        transaction = _transaction(session)
        fresh = [touched for touched in noted if touched.object_id and touched not in transaction.kept]
        if not fresh:
            return
        now = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)
        rows = [{**dataclasses.asdict(one), "created_at": now} for one in fresh]
        session.connection().execute(sa.insert(Change.__table__), rows)
        transaction.kept.update(fresh)
        transaction.told.update(dict.fromkeys(fresh))

    def _tell(self, session: Any) -> None:
        if session.in_nested_transaction():
            return
        transaction = session.info.pop(_KEPT, None)
        if transaction is not None and transaction.told:
            self._committed(list(transaction.told))

    def _forget(self, session: Any, _previous: Any) -> None:
        """After a rollback; after one of a savepoint, what was kept may be gone, so it is kept again when it recurs."""
        if not session.in_transaction():
            session.info.pop(_KEPT, None)
        elif _KEPT in session.info:
            session.info[_KEPT].kept.clear()
            session.info[_KEPT].noted.clear()


@dataclass(slots=True)
class _Transaction:
    """What was noted and not kept yet, what the log has of it, and what is told after the commit.

    After the rollback of a savepoint `told` may name more than `kept`: a hint too many.
    """

    noted: dict[Touched, None] = dataclasses.field(default_factory=dict)
    kept: set[Touched] = dataclasses.field(default_factory=set)
    told: dict[Touched, None] = dataclasses.field(default_factory=dict)


def _transaction(session: Any) -> _Transaction:
    found: _Transaction = session.info.setdefault(_KEPT, _Transaction())
    return found


def touched_by(one: Any, *, deleted: bool = False) -> Iterator[Touched]:
    """What it means that an object of Neutron's was made, changed or deleted."""
    if isinstance(one, l3.Router):
        yield Touched(ROUTER, one.id, one.project_id or "", deleted)
    elif isinstance(one, l3.FloatingIP):
        yield from (Touched(ROUTER, router_id) for router_id in _values(one, "router_id"))
    elif isinstance(one, models_v2.Port):
        yield from _of_port(one, deleted=deleted)
    elif isinstance(one, standard_attr.StandardAttribute):
        # A description is kept here; the object itself does not change with it.
        state = sa.inspect(one)
        known = state.persistent and not deleted and one.resource_type in _DESCRIBED
        if known and state.attrs.description.history.has_changes():
            yield Touched(ATTRIBUTES, str(one.id))
    elif isinstance(one, metering.MeteringLabel):
        yield Touched(ALL, one.id) if one.shared else Touched(PROJECT, one.project_id or "")
    else:
        for model, kind, column in _PARTS:
            if isinstance(one, model):
                yield from (Touched(kind, value) for value in _values(one, column))


def _of_port(port: models_v2.Port, *, deleted: bool) -> Iterator[Touched]:
    owners = _states(port, "device_owner")
    own = owners & {*INTERNAL, GATEWAY}
    if own:
        yield from (Touched(ROUTER, router_id) for router_id in _values(port, "device_id"))
    # One that a router takes, or gives back, is also an allocation that comes and goes.
    if owners != own and marks.parse(port.description) is None and (deleted or _changed(port) - _NOT_CONFIGURED):
        yield Touched(PORTS, port.network_id)


def _values(one: Any, name: str) -> set[str]:
    """What an attribute is and was, without what is empty."""
    return {str(value) for value in _states(one, name) if value}


def _states(one: Any, name: str) -> set[Any]:
    """What an attribute is and was."""
    getattr(one, name)  # read, should it have expired
    history = sa.inspect(one).attrs[name].history
    return {*history.deleted, *history.unchanged, *history.added}


def _changed(one: Any) -> set[str]:
    """The columns that differ from what is in the database; all of a new object."""
    state = sa.inspect(one)
    keys = {column.key for column in state.mapper.column_attrs}
    return {key for key in keys if not state.persistent or state.attrs[key].history.has_changes()}


_NOT_CONFIGURED = {"status"}
"""Whether a tenant's port is up is not part of any configuration."""
_DESCRIBED = {model.__tablename__ for model in (l3.Router, l3.FloatingIP, models_v2.Port, models_v2.Network,
                                                models_v2.Subnet)}  # fmt: skip
_PARTS: tuple[tuple[type, str, str], ...] = (
    (l3.RouterPort, ROUTER, "router_id"),
    (l3.RouterRoute, ROUTER, "router_id"),
    (l3_attrs.RouterExtraAttributes, ROUTER, "router_id"),
    (conntrack_helper.ConntrackHelper, ROUTER, "router_id"),
    (ndp_proxy.NDPProxy, ROUTER, "router_id"),
    (ndp_proxy.RouterNDPProxyState, ROUTER, "router_id"),
    (qos.QosRouterGatewayIPPolicyBinding, ROUTER, "router_id"),
    (models_v2.Network, NETWORK, "id"),
    (models_v2.Subnet, NETWORK, "network_id"),
    (external_net.ExternalNetwork, NETWORK, "network_id"),
    (dns.NetworkDNSDomain, NETWORK, "network_id"),
    (qos.QosNetworkPolicyBinding, NETWORK, "network_id"),
    (models_v2.DNSNameServer, SUBNET, "subnet_id"),
    (models_v2.SubnetRoute, SUBNET, "subnet_id"),
    (models_v2.IPAllocationPool, SUBNET, "subnet_id"),
    (models_v2.IPAllocation, PORT, "port_id"),
    (dhcp_models.ExtraDhcpOpt, PORT, "port_id"),
    (dns.PortDNS, PORT, "port_id"),
    (qos.QosPortPolicyBinding, PORT, "port_id"),
    (port_forwarding.PortForwarding, FLOATING_IP, "floatingip_id"),
    (qos.QosFIPPolicyBinding, FLOATING_IP, "fip_id"),
    (dns.FloatingIPDNS, FLOATING_IP, "floatingip_id"),
    (qos.QosPolicy, QOS_POLICY, "id"),
    (qos.QosBandwidthLimitRule, QOS_POLICY, "qos_policy_id"),
    (qos.QosDscpMarkingRule, QOS_POLICY, "qos_policy_id"),
    (qos.QosMinimumBandwidthRule, QOS_POLICY, "qos_policy_id"),
    (qos.QosPacketRateLimitRule, QOS_POLICY, "qos_policy_id"),
    (qos.QosMinimumPacketRateRule, QOS_POLICY, "qos_policy_id"),
    (metering.MeteringLabelRule, LABEL, "metering_label_id"),
    # What a flavor's profile says of high availability.
    (flavor.ServiceProfile, ALL, "id"),
    (flavor.FlavorServiceProfileBinding, ALL, "flavor_id"),
    (tag.Tag, ATTRIBUTES, "standard_attr_id"),
)
