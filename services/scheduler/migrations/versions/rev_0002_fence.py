"""A write of the leader's row in every fenced transaction, and which code may run on a schema."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
oldest_code = "0001"


def upgrade() -> None:
    """Add the two; what 0001 knows is left alone."""
    if "fence" not in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("leader")}:
        op.add_column("leader", sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "compatibility",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("oldest_code", sa.String(64), nullable=False),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.execute(
        "INSERT INTO compatibility (id, oldest_code) "
        "SELECT 1, '0001' FROM (SELECT COUNT(*) AS n FROM compatibility) AS made WHERE n = 0"
    )
