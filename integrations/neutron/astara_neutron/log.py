"""Reading the log of changes: how far it may be told, what came since, and what may be forgotten.

Numbers are given when a row is written and seen when its transaction ends, so a lower one may appear after a higher
one. A revision is therefore told only when it is older than any transaction can be (`[astara] change_margin`); what is
newer is listed, and listed again. Two servers' clocks may differ by what is left of the margin.
"""

import datetime as dt
import random
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from neutron_lib.db import api as db_api
from oslo_config import cfg
from oslo_db import exception as db_errors
from oslo_log import log

from . import options
from .changes import Touched
from .db.models import Change
from .routers import Entry

LOG = log.getLogger(__name__)

_C: Any = Change
_READ = 10_000
_PRUNED = 5_000
_PRUNE_ONE_IN = 500


class UnknownRevisionError(Exception):
    """A revision that this database has never told, or whose successors were pruned."""


def revision(session: Any) -> int:
    """The highest revision that may be told: none of a lower number can still appear."""
    before = _now() - dt.timedelta(seconds=cfg.CONF[options.GROUP].change_margin)
    oldest_fresh = session.execute(sa.select(sa.func.min(_C.id)).where(_C.created_at > before)).scalar()
    if oldest_fresh is not None:
        return int(oldest_fresh) - 1
    return int(session.execute(sa.select(sa.func.max(_C.id))).scalar() or 0)


def since(session: Any, told: int) -> Iterator[Entry]:
    """What came after a revision. UnknownRevisionError when that cannot be said."""
    first, last = session.execute(sa.select(sa.func.min(_C.id), sa.func.max(_C.id))).one()
    if told > (last or 0) or (first is not None and told < first - 1):
        raise UnknownRevisionError
    at = told
    while True:
        query = sa.select(_C.id, _C.kind, _C.object_id, _C.project_id, _C.deleted)
        rows = session.execute(query.where(_C.id > at).order_by(_C.id).limit(_READ)).all()
        for row in rows:
            yield Entry(row.id, Touched(row.kind, row.object_id, row.project_id, bool(row.deleted)))
        if len(rows) < _READ:
            return
        at = rows[-1].id


def prune_now_and_then(context: Any) -> None:
    """Forget what is older than `[astara] keep_changes`, in one of some hundred calls; the newest entry stays."""
    if random.randrange(_PRUNE_ONE_IN) == 0:
        prune(context)


def prune(context: Any) -> None:
    """Forget what is older than `[astara] keep_changes`. Two at once do no harm: one finds nothing left."""
    before = _now() - dt.timedelta(seconds=cfg.CONF[options.GROUP].keep_changes)
    try:
        with db_api.CONTEXT_WRITER.using(context) as session:
            last = session.execute(sa.select(sa.func.max(_C.id))).scalar()
            query = sa.select(_C.id).where(_C.created_at < before, _C.id < (last or 0))
            ids = [row[0] for row in session.execute(query.order_by(_C.id).limit(_PRUNED))]
            if ids:
                session.execute(sa.delete(Change).where(_C.id.in_(ids)))
    except db_errors.DBError:
        LOG.exception("the log of changes cannot be pruned; tried again later")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)
