"""Writes what the orchestrator says of a router: its status and the reason, its floating IPs' and its ports'.

It is one transaction of Neutron's database and nothing else: only what differs is written, no agent, no backend and not
Nova are told, and the change feed leaves it out. `revision_number` moves, as with every other change that users see.
"""

import re
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.models import l3 as l3_models
from neutron_lib.api.definitions import l3
from neutron_lib.db import api as db_api
from neutron_lib.db import resource_extend
from neutron_lib.exceptions import l3 as l3_errors
from oslo_db import exception as db_exc
from sqlalchemy import orm

from . import changes, web
from .db.models import LONGEST_REASON, RouterStatus

STATUS_REASON = "status_reason"

_STATUSES = ("ACTIVE", "ALLOCATING", "ERROR")
_PARTS = {"floating_ips": ("ACTIVE", "DOWN", "ERROR"), "ports": ("ACTIVE", "DOWN")}
_FIELD = "router_status"
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""As it is written matters: MariaDB finds others alike."""

_ALL = "*"

Told = dict[str, Any]


@resource_extend.has_resource_extenders
class StatusReason:
    """Shows the reason on routers."""

    @staticmethod
    @resource_extend.extends([l3.ROUTERS])
    def _show(shown: dict[str, Any], router: Any) -> None:
        known = router.astara_status
        shown[STATUS_REASON] = known.reason if known is not None else ""


def checked(told: Any) -> Told:
    """What the body of a request may say. WrongField (400)."""
    if not isinstance(told, dict):
        raise web.WrongField(_FIELD, "an object is expected")
    if unknown := sorted(set(told) - {"status", "reason", *_PARTS}):
        raise web.WrongField(f"{_FIELD}.{unknown[0]}", f"only status, reason, {' and '.join(_PARTS)} are understood")
    if "status" in told:
        _check_status("status", told["status"], _STATUSES)
    if "reason" in told and (not isinstance(told["reason"], str) or len(told["reason"]) > LONGEST_REASON):
        raise web.WrongField(f"{_FIELD}.reason", f"a text of at most {LONGEST_REASON} characters is expected")
    for part, statuses in _PARTS.items():
        wanted = told.get(part, {})
        if not isinstance(wanted, dict):
            raise web.WrongField(f"{_FIELD}.{part}", "an object of ids and statuses is expected")
        for one, status in wanted.items():
            if one != _ALL and not _ID.fullmatch(one):
                raise web.WrongField(f"{_FIELD}.{part}", "each key is to be an id as Neutron shows it, or * for all")
            _check_status(f"{part}.{one}", status, statuses)
    return told | {"reason": web.storable(told["reason"])} if "reason" in told else told


def write(context: Any, router_id: str, told: Told) -> Told:
    """Write what differs; the answer is what is now true of the router and of what was named and is its.

    RouterNotFound. `told` is what `checked` lets pass.
    """
    try:
        now: Told = _write(context, router_id, told)
    except db_exc.DBReferenceError as error:
        # It went between the reading and the writing.
        raise l3_errors.RouterNotFound(router_id=router_id) from error
    return now


@db_api.retry_if_session_inactive()
def _write(context: Any, router_id: str, told: Told) -> Told:
    with db_api.CONTEXT_WRITER.using(context) as session:
        session.info[changes.OWN] = True
        router = _query(session, l3_models.Router).filter_by(id=router_id).one_or_none()
        if router is None:
            raise l3_errors.RouterNotFound(router_id=router_id)
        moves = _set_status(router, told.get("status", router.status))
        reason, changed = _write_reason(session, router_id, told.get("reason"))
        if changed and not moves:
            router.bump_revision()
        answer: Told = {"status": router.status, "reason": reason}
        for part in _PARTS:
            if part in told:
                answer[part] = {}
                for one in _belonging(session, part, router_id, told[part]):
                    _set_status(one, told[part].get(one.id) or told[part][_ALL])
                    answer[part][one.id] = one.status
        return answer


def _write_reason(session: Any, router_id: str, reason: str | None) -> tuple[str, bool]:
    """The reason that is now kept, and whether that is another than before."""
    known = session.get(RouterStatus, router_id, options=[orm.lazyload("*")])
    before = str(known.reason) if known is not None else ""
    if reason is None or reason == before:
        return before, False
    if known is None:
        session.add(RouterStatus(router_id=router_id, reason=reason))
    else:
        known.reason = reason
    return reason, True


def _query(session: Any, model: Any) -> Any:
    """Rows with their revisions, and without all that Neutron reads with them otherwise."""
    return session.query(model).options(orm.lazyload("*"), orm.joinedload(model.standard_attr).lazyload("*"))


def _belonging(session: Any, part: str, router_id: str, wanted: Told) -> Iterable[Any]:
    """Those of the named that exist and are the router's; of all others, where they are named so, what differs."""
    if not wanted:
        return ()
    model = models_v2.Port if part == "ports" else l3_models.FloatingIP
    named = model.id.in_(set(wanted) - {_ALL})
    if _ALL in wanted:
        named = sa.or_(named, model.status.is_distinct_from(wanted[_ALL]))
    if part == "ports":
        query = _query(session, models_v2.Port)
        query = query.join(l3_models.RouterPort, l3_models.RouterPort.port_id == models_v2.Port.id)
        query = query.filter(l3_models.RouterPort.router_id == router_id, named)
    else:
        query = _query(session, l3_models.FloatingIP)
        query = query.filter(l3_models.FloatingIP.router_id == router_id, named)
    found: list[Any] = query.all()
    return found


def _set_status(row: Any, status: str) -> bool:
    """Whether it had another."""
    moves = bool(row.status != status)
    if moves:
        row.status = status
    return moves


def _check_status(field: str, status: Any, known: tuple[str, ...]) -> None:
    if status not in known:
        raise web.WrongField(f"{_FIELD}.{field}", f"one of {', '.join(known)} is expected")
