"""The tables that the plugin begins with. Expands only: a Neutron without the plugin does not know them."""

import datetime as dt

import sqlalchemy as sa
from alembic import op

revision = "a5a7a0000001"
down_revision = None
branch_labels = ("expand",)


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "astara_router_statuses",
        sa.Column("router_id", sa.String(36), sa.ForeignKey("routers.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("reason", sa.String(1024), nullable=False, server_default=""),
        mysql_engine="InnoDB",
    )
    changes = op.create_table(
        "astara_changes",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("object_id", sa.String(255), nullable=False),
        sa.Column("project_id", sa.String(255), nullable=False, server_default=""),
        sa.Column("deleted", sa.Boolean(), nullable=False, server_default=sa.sql.false()),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Index("ix_astara_changes_created_at", "created_at"),
        sqlite_autoincrement=True,
        mysql_engine="InnoDB",
    )
    # The log is never empty: a revision that is told before the first change is one of its own.
    now = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)
    op.bulk_insert(changes, [{"kind": "begin", "object_id": "", "created_at": now}])
