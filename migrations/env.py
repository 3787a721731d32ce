"""Alembic's entry: runs the migrations on the connection that `migrations.upgrade` hands over."""

from alembic import context

from app import idempotency  # noqa: F401  (fills Base.metadata)
from app.api_keys import models as api_keys_models  # noqa: F401
from app.database import Base
from app.items import models as items_models  # noqa: F401
from app.ratings import models as ratings_models  # noqa: F401
from app.registry import models as registry_models  # noqa: F401
from app.training import models as training_models  # noqa: F401
from migrations import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
