"""The log of changes: what each transaction touched of any router's snapshot, kept in the same transaction.

True at all times: an entry is visible exactly when the change is; entries are only appended, so no two requests wait
for each other here; nothing is asked of the database to write one, so a port on a network without routers costs one row
of the same insert. Which routers an entry concerns is found when somebody reads (`routers.py`), not when it is written.

What our own status write-back writes is left out: it would make the orchestrator look at what it has just told.
"""

import datetime as dt
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.extra_dhcp_opt import models as dhcp_models
from neutron.db.models import conntrack_helper, dns, l3, l3_attrs, metering, ndp_proxy, port_forwarding
from neutron.db.qos import models as qos
from neutron_lib.db import api as db_api
from oslo_log import log
from sqlalchemy.orm import session as orm_session

from . import marks
from .db.models import Change

LOG = log.getLogger(__name__)

OWN = "astara_writes_status"
"""Key of a session's `info` while what is written must not be logged."""
_KEPT = "astara_changes"
_CHECK_SECONDS = 30.0

ROUTER, PORTS, NETWORK, SUBNET, PORT = "router", "ports", "network", "subnet", "port"
FLOATING_IP, QOS_POLICY, LABEL, PROJECT, ALL = "floatingip", "qos_policy", "label", "project", "all"
"""Kinds of entries; `ports` is a network whose tenants' ports changed, `network` one that changed itself."""

_ROUTERS_OWNER = "network:router_"
_QOS_RULES = (qos.QosBandwidthLimitRule, qos.QosDscpMarkingRule, qos.QosPacketRateLimitRule)


@dataclass(frozen=True, slots=True)
class Touched:
    """One thing that a transaction touched."""

    kind: str
    object_id: str
    project_id: str = ""
    deleted: bool = False


class Changes:
    """Listens to all sessions; `committed` hears of what each transaction touched, after its commit."""

    def __init__(self, committed: Any) -> None:
        self._committed = committed
        self._checked = False
        self._check_at = 0.0
        for event, listener in (
            ("before_flush", self._note),
            ("after_flush", self._keep),
            ("after_commit", self._tell),
            ("after_soft_rollback", self._forget),
        ):
            db_api.sqla_listen(orm_session.Session, event, listener)

    def _note(self, session: Any, _context: Any, _instances: Any) -> None:
        """Before the flush, while what an object was is still known."""
        if session.info.get(OWN):
            return
        found = {
            touched: None
            for one in (*session.new, *(one for one in session.dirty if session.is_modified(one)))
            for touched in touched_by(one)
        }
        for one in session.deleted:
            found |= dict.fromkeys(touched_by(one, deleted=True))
        if found:
            session.info.setdefault(_KEPT, _Transaction()).noted.update(found)

    def _keep(self, session: Any, _context: Any) -> None:
        transaction = session.info.get(_KEPT)
        if transaction is None or not transaction.noted:
            return
        fresh = [touched for touched in transaction.noted if touched not in transaction.kept]
        transaction.noted.clear()
        connection = session.connection()
        if not fresh or not self._has_table(connection):
            return
        now = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)
        rows = [
            {
                "kind": one.kind,
                "object_id": one.object_id,
                "project_id": one.project_id,
                "deleted": one.deleted,
                "created_at": now,
            }
            for one in fresh
        ]
        connection.execute(sa.insert(Change.__table__), rows)
        transaction.kept.update(dict.fromkeys(fresh))

    def _has_table(self, connection: Any) -> bool:
        """Whether the plugin's migrations were made; without them Neutron goes on, and nothing is logged."""
        if not self._checked and time.monotonic() >= self._check_at:
            self._checked = sa.inspect(connection).has_table(Change.__tablename__)
            self._check_at = time.monotonic() + _CHECK_SECONDS
            if not self._checked:
                LOG.error("run neutron-db-manage upgrade heads: without its tables astara-neutron keeps no changes")
        return self._checked

    def _tell(self, session: Any) -> None:
        if session.in_nested_transaction():
            return
        transaction = session.info.pop(_KEPT, None)
        if transaction is not None and transaction.kept:
            self._committed(list(transaction.kept))

    def _forget(self, session: Any, _previous: Any) -> None:
        """After a rollback, of a savepoint as well: what was kept may be gone, so it is kept again when it recurs."""
        transaction = session.info.pop(_KEPT, None)
        if transaction is not None and session.in_transaction():
            session.info[_KEPT] = _Transaction()


class _Transaction:
    __slots__ = ("kept", "noted")

    def __init__(self) -> None:
        self.noted: dict[Touched, None] = {}
        self.kept: dict[Touched, None] = {}


def touched_by(one: Any, *, deleted: bool = False) -> Iterator[Touched]:
    """What it means that an object of Neutron's was made, changed or deleted."""
    if isinstance(one, l3.Router):
        yield Touched(ROUTER, one.id, one.project_id or "", deleted)
    elif isinstance(one, _OF_A_ROUTER):
        yield Touched(ROUTER, one.router_id)
    elif isinstance(one, l3.FloatingIP):
        for router_id in _values(one, "router_id"):
            yield Touched(ROUTER, router_id)
    elif isinstance(one, models_v2.Port):
        yield from _of_port(one)
    elif isinstance(one, _OF_A_PORT):
        yield from (Touched(PORT, port_id) for port_id in _values(one, "port_id"))
    elif isinstance(one, models_v2.Network):
        yield Touched(NETWORK, one.id)
    elif isinstance(one, models_v2.Subnet):
        yield Touched(NETWORK, one.network_id)
    elif isinstance(one, _OF_A_SUBNET):
        yield Touched(SUBNET, one.subnet_id)
    else:
        yield from _of_others(one)


def _of_port(port: models_v2.Port) -> Iterator[Touched]:
    owner = port.device_owner or ""
    if owner.startswith(_ROUTERS_OWNER):
        for router_id in _values(port, "device_id"):
            yield Touched(ROUTER, router_id)
        return
    former = [one for one in _values(port, "device_owner") if one.startswith(_ROUTERS_OWNER)]
    if former:
        for router_id in _values(port, "device_id"):
            yield Touched(ROUTER, router_id)
    if owner.startswith("network:") or marks.parse(port.description) is not None:
        return
    if _changed(port) != {"status"}:
        # Whether a tenant's port is up is not part of any configuration.
        yield Touched(PORTS, port.network_id)


def _of_others(one: Any) -> Iterator[Touched]:
    if isinstance(one, port_forwarding.PortForwarding):
        yield Touched(FLOATING_IP, one.floatingip_id)
    elif isinstance(one, qos.QosFIPPolicyBinding):
        yield Touched(FLOATING_IP, one.fip_id)
    elif isinstance(one, _QOS_RULES):
        yield Touched(QOS_POLICY, one.qos_policy_id)
    elif isinstance(one, metering.MeteringLabel):
        yield Touched(ALL, one.id) if one.shared else Touched(PROJECT, one.project_id or "")
    elif isinstance(one, metering.MeteringLabelRule):
        yield Touched(LABEL, one.metering_label_id)


def _values(one: Any, name: str) -> Iterable[str]:
    """What an attribute is and was, without what is empty."""
    getattr(one, name)  # read, should it have expired
    history = sa.inspect(one).attrs[name].history
    return {str(value) for value in (*history.deleted, *history.unchanged, *history.added) if value}


def _changed(one: Any) -> set[str]:
    """The columns that differ from what is in the database; all of a new object."""
    state = sa.inspect(one)
    if not state.persistent:
        return {column.key for column in state.mapper.column_attrs}
    keys = (column.key for column in state.mapper.column_attrs)
    return {key for key in keys if state.attrs[key].history.has_changes()}


_OF_A_ROUTER = (
    l3.RouterPort,
    l3.RouterRoute,
    l3_attrs.RouterExtraAttributes,
    conntrack_helper.ConntrackHelper,
    ndp_proxy.NDPProxy,
    ndp_proxy.RouterNDPProxyState,
    qos.QosRouterGatewayIPPolicyBinding,
)
_OF_A_PORT = (models_v2.IPAllocation, dhcp_models.ExtraDhcpOpt, dns.PortDNS)
_OF_A_SUBNET = (models_v2.DNSNameServer, models_v2.SubnetRoute)
