"""The tables, as SQLAlchemy Core knows them. migrations/ makes them; a test compares the two."""

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

ID = sa.String(64)
SUBJECT = sa.String(255)
# Ids are equal when their bytes are.
MARIADB: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}

leader = sa.Table(
    "leader",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False, comment="always 1"),
    sa.Column("term", sa.BigInteger, nullable=False, comment="grows with each leader"),
    sa.Column("holder", SUBJECT, nullable=False),
    sa.Column("expires", sa.Double, nullable=False, comment="Unix time"),
    sa.Column("lease_seconds", sa.Double, nullable=False, comment="the longest lease that workers may still have"),
    sa.Column("epoch", sa.BigInteger, nullable=False, comment="highest counter that was ever reserved for grants"),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0", comment="grows with each leader's write"),
    **MARIADB,
)

operation = sa.Table(
    "operation",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("created", sa.Double, nullable=False, index=True),
    sa.Column("target", SUBJECT, nullable=False, index=True),
    sa.Column("finished", sa.Boolean, nullable=False, index=True),
    sa.Column("body", sa.LargeBinary(16 * 1024 * 1024), nullable=False, comment="astara.resource.v1.Operation"),
    **MARIADB,
)

operation_resource = sa.Table(
    "operation_resource",
    metadata,
    sa.Column("operation", ID, primary_key=True),
    sa.Column("resource", SUBJECT, primary_key=True),
    sa.Column("tenant", SUBJECT, nullable=False),
    sa.Column("kind", sa.Integer, nullable=False),
    sa.Column("state", sa.Integer, nullable=False, comment="astara.resource.v1.OperationState"),
    **MARIADB,
)

debug_flag = sa.Table(
    "debug_flag",
    metadata,
    sa.Column("scope", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("target", SUBJECT, primary_key=True),
    sa.Column("tenant", SUBJECT, nullable=False, comment="of a resource's flag: managing the tenant clears it"),
    sa.Column("body", sa.LargeBinary(64 * 1024), nullable=False, comment="astara.resource.v1.DebugFlag"),
    **MARIADB,
)

image_override = sa.Table(
    "image_override",
    metadata,
    sa.Column("resource", SUBJECT, primary_key=True),
    sa.Column("image", SUBJECT, nullable=False),
    **MARIADB,
)

mark = sa.Table(
    "mark",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("hint", sa.LargeBinary(64 * 1024), nullable=False, comment="astara.scheduler.v1.Hint"),
    **MARIADB,
)

history = sa.Table(
    "history",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("resource", SUBJECT, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False, index=True),
    sa.Column("worker", SUBJECT, nullable=False),
    sa.Column("body", sa.LargeBinary(64 * 1024), nullable=False, comment="astara.scheduler.v1.HistoryEntry"),
    sa.Index("ix_history_resource_at_ms", "resource", "at_ms"),
    **MARIADB,
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("resource", SUBJECT, primary_key=True),
    sa.Column("deaths", sa.Integer, nullable=False, comment="deaths of workers in which it was in progress"),
    **MARIADB,
)

compatibility = sa.Table(
    "compatibility",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False, comment="always 1"),
    sa.Column("oldest_code", ID, nullable=False, comment="the revision that a scheduler must know to work on this"),
    **MARIADB,
)
