"""What alembic runs: the migrations, on the connection that `store` opened."""

from alembic import context

from services.scheduler.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
