"""The first schema."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
oldest_code = "0001"

ID = sa.String(64)
SUBJECT = sa.String(255)
MARIADB: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}

INDEXES = (
    ("operation", "created"),
    ("operation", "target"),
    ("operation", "finished"),
    ("history", "at_ms"),
    ("history", "resource", "at_ms"),
)


def upgrade() -> None:
    """Make all tables; the leader's row is made with them, so that it can be fought for by updates alone."""
    op.create_table(
        "leader",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("term", sa.BigInteger, nullable=False),
        sa.Column("holder", SUBJECT, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("lease_seconds", sa.Double, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        **MARIADB,
        if_not_exists=True,
    )
    op.create_table(
        "operation",
        sa.Column("id", ID, primary_key=True),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("target", SUBJECT, nullable=False),
        sa.Column("finished", sa.Boolean, nullable=False),
        sa.Column("body", sa.LargeBinary(16 * 1024 * 1024), nullable=False),
        **MARIADB,
        if_not_exists=True,
    )
    op.create_table(
        "operation_resource",
        sa.Column("operation", ID, primary_key=True),
        sa.Column("resource", SUBJECT, primary_key=True),
        sa.Column("tenant", SUBJECT, nullable=False),
        sa.Column("kind", sa.Integer, nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        **MARIADB,
        if_not_exists=True,
    )
    op.create_table(
        "debug_flag",
        sa.Column("scope", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("target", SUBJECT, primary_key=True),
        sa.Column("tenant", SUBJECT, nullable=False),
        sa.Column("body", sa.LargeBinary(64 * 1024), nullable=False),
        **MARIADB,
        if_not_exists=True,
    )
    op.create_table(
        "image_override",
        sa.Column("resource", SUBJECT, primary_key=True),
        sa.Column("image", SUBJECT, nullable=False),
        **MARIADB,
        if_not_exists=True,
    )
    op.create_table(
        "mark",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("hint", sa.LargeBinary(64 * 1024), nullable=False),
        **MARIADB,
        if_not_exists=True,
    )
    op.create_table(
        "history",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("resource", SUBJECT, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("worker", SUBJECT, nullable=False),
        sa.Column("body", sa.LargeBinary(64 * 1024), nullable=False),
        **MARIADB,
        if_not_exists=True,
    )
    op.create_table(
        "quarantine",
        sa.Column("resource", SUBJECT, primary_key=True),
        sa.Column("deaths", sa.Integer, nullable=False),
        **MARIADB,
        if_not_exists=True,
    )
    for table, *columns in INDEXES:
        name = "_".join(("ix", table, *columns))
        if name not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}:
            op.create_index(name, table, columns)
    op.execute(
        "INSERT INTO leader (id, term, holder, expires, lease_seconds, epoch) "
        "SELECT 1, 0, '', 0, 0, 0 FROM (SELECT COUNT(*) AS n FROM leader) AS made WHERE n = 0"
    )
