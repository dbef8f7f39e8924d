"""How `neutron-db-manage --subproject astara-neutron` runs the migrations."""

from alembic import context
from neutron_lib.db import model_base
from oslo_db.sqlalchemy import session

from astara_neutron.db.migration.alembic_migrations import VERSION_TABLE

_neutron = context.config.neutron_config  # type: ignore[attr-defined]  # set by neutron-db-manage


def _offline() -> None:
    url = _neutron.database.connection
    where = {"url": url} if url else {"dialect_name": _neutron.database.engine}
    context.configure(version_table=VERSION_TABLE, **where)
    with context.begin_transaction():
        context.run_migrations()


def _online() -> None:
    engine = session.create_engine(_neutron.database.connection)
    with engine.connect() as connection:
        context.configure(
            connection=connection, target_metadata=model_base.BASEV2.metadata, version_table=VERSION_TABLE
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


if context.is_offline_mode():
    _offline()
else:
    _online()
