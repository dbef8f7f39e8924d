"""Reading the log of changes: how far it may be told, what came since, and what may be forgotten.

Numbers are given when a row is written and seen when its transaction ends, so a lower one may appear after a higher
one. A revision is therefore told only when it is older than any transaction can be (`[astara] change_margin`): a row
that is not seen yet was written within the margin, so after that one, and its number is higher. What is newer is
listed, and listed again. Two servers' clocks may differ by what is left of the margin, and servers of a Galera cluster,
each of which counts on from what it has applied, may lag behind one another by as much.
"""

import datetime as dt
from typing import Any

import sqlalchemy as sa
from neutron_lib.db import api as db_api
from oslo_config import cfg

from . import options
from .changes import Touched
from .db.models import Change
from .routers import Entry

_C: Any = Change
_PRUNED = 2_000
_ROUNDS = 500
MOST = 50_000
"""Things that changed since a revision; where it is more, to list everything costs less."""


class UnknownRevisionError(Exception):
    """A revision that this database has never told, whose successors were pruned, or are too many."""


def revision(session: Any) -> int:
    """The highest revision that may be told: nothing of a lower number can still appear. 0 when there is none."""
    return _last_before(session, cfg.CONF[options.GROUP].change_margin)


def latest(session: Any) -> int:
    """The highest number there is."""
    return int(session.execute(sa.select(sa.func.max(_C.id))).scalar() or 0)


def since(session: Any, told: int) -> list[Entry]:
    """What came after a revision, each thing once. UnknownRevisionError when that cannot be said."""
    first, last = session.execute(sa.select(sa.func.min(_C.id), sa.func.max(_C.id))).one()
    if told > (last or 0) or (first is not None and told < first - 1):
        raise UnknownRevisionError
    project = sa.func.max(_C.project_id)
    deleted = sa.func.max(sa.case((_C.deleted, 1), else_=0))
    query = sa.select(sa.func.max(_C.id), _C.kind, _C.object_id, project, deleted)
    query = query.where(_C.id > told).group_by(_C.kind, _C.object_id).limit(MOST + 1)
    rows = session.execute(query).all()
    if len(rows) > MOST:
        raise UnknownRevisionError
    return [Entry(row[0], Touched(row[1], row[2], row[3], bool(row[4]))) for row in rows]


def prune(context: Any) -> int:
    """Forget what is older than `[astara] keep_changes`, but for the newest of it; return how much that was.

    In small transactions, none of which a writer waits for. Where two processes prune at once, one finds nothing left.
    Raises oslo.db's errors.
    """
    forgotten = 0
    for _ in range(_ROUNDS):
        with db_api.CONTEXT_WRITER.using(context) as session:
            last = _last_before(session, cfg.CONF[options.GROUP].keep_changes)
            query = sa.select(_C.id).where(_C.id < last).order_by(_C.id).limit(_PRUNED)
            ids = list(session.execute(query).scalars())
            if ids:
                session.execute(sa.delete(Change.__table__).where(_C.id.in_(ids)))
        forgotten += len(ids)
        if len(ids) < _PRUNED:
            break
    return forgotten


def _last_before(session: Any, seconds: int) -> int:
    """The last row that is older than that, by the clock of the server that wrote it."""
    before = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None) - dt.timedelta(seconds=seconds)
    # The end of an index, not a look at all that is older.
    query = sa.select(_C.id).where(_C.created_at <= before).order_by(_C.created_at.desc(), _C.id.desc()).limit(1)
    return int(session.execute(query).scalar() or 0)
