"""Alembic's entry point: runs the migrations on the connection passed by `migrations.upgrade`."""

from alembic import context

from app.db.tables import Base
from migrations import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
