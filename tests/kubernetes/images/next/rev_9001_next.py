"""What a later version may do to a schema that this version works on: add a table, and a column with a default."""

import sqlalchemy as sa
from alembic import op

revision = "9001"
down_revision = "0002"
oldest_code = "0001"


def upgrade() -> None:
    """Add the two."""
    op.create_table("later", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), if_not_exists=True)
    if "later" not in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("leader")}:
        op.add_column("leader", sa.Column("later", sa.Integer, nullable=False, server_default="0"))
