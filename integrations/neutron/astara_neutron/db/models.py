"""Tables of the plugin's own in Neutron's database."""

from typing import Any

import sqlalchemy as sa
from neutron.db.models import l3
from neutron_lib.db import constants, model_base
from sqlalchemy import orm

LONGEST_REASON = 1024

BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""SQLite counts by itself in this type alone."""


class RouterStatus(model_base.BASEV2):
    """Why a router has the status that it has."""

    __tablename__ = "astara_router_statuses"

    router_id = sa.Column(
        sa.String(constants.UUID_FIELD_SIZE), sa.ForeignKey("routers.id", ondelete="CASCADE"), primary_key=True
    )
    reason = sa.Column(sa.String(LONGEST_REASON), nullable=False, server_default="")
    router = orm.relationship(
        l3.Router,
        load_on_pending=True,
        # Read with each router, since it is shown with each.
        backref=orm.backref("astara_status", lazy="joined", uselist=False, cascade="delete"),
    )


class Change(model_base.BASEV2):
    """One thing that a transaction touched; only ever appended, and pruned by age."""

    __tablename__ = "astara_changes"
    __table_args__ = (
        sa.Index("ix_astara_changes_created_at", "created_at"),
        {**model_base.BASEV2.__table_args__, "sqlite_autoincrement": True},
    )

    id = sa.Column(BigId, primary_key=True, autoincrement=True)
    kind = sa.Column(sa.String(32), nullable=False)
    object_id = sa.Column(sa.String(constants.PROJECT_ID_FIELD_SIZE), nullable=False)
    project_id = sa.Column(sa.String(constants.PROJECT_ID_FIELD_SIZE), nullable=False, server_default="")
    deleted: Any = sa.Column(sa.Boolean(), nullable=False, server_default=sa.sql.false())
    created_at = sa.Column(sa.DateTime(), nullable=False)
