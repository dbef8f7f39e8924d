"""${message}."""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
# The revision that a scheduler must know to work on what this leaves behind; the one before's unless this takes away.
oldest_code = ${repr(down_revision)}


def upgrade() -> None:
    """Bring the schema here."""
    ${upgrades if upgrades else "pass"}
