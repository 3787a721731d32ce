"""Alembic migrations of the database, and the two questions asked of them: upgrade it, is it current?"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from app.database import Database
from app.settings import Settings

VERSION_TABLE = "palate_alembic_version"  # other tools that use Alembic keep their own table in the same database
_ADVISORY_LOCK = 0x70616C61  # any constant of our own: "pala"


def upgrade(database: Database, settings: Settings) -> None:
    """Bring the schema to the newest revision; processes that start together take turns."""
    with _one_at_a_time(database, settings), database.engine.connect() as connection:
        if database.is_sqlite:
            connection.execution_options(sqlite_begin="BEGIN IMMEDIATE")
        with connection.begin():
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def is_current(database: Database) -> bool:
    """Whether the schema is at the newest revision that this code knows."""
    with database.read() as connection:
        return current(connection) == head()


def current(connection: Connection) -> str | None:
    """The revision of the database's schema; None before the first migration."""
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def head() -> str | None:
    """The newest revision that this code knows."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def knows(schema: str) -> bool:
    """Whether this is a revision that this code knows."""
    return any(script.revision == schema for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


@contextmanager
def _one_at_a_time(database: Database, settings: Settings) -> Iterator[None]:
    if database.is_sqlite:
        with (settings.data_dir / "migrate.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        return
    with database.engine.connect() as connection:
        _advisory(connection, "pg_advisory_lock")
        try:
            yield
        finally:
            _advisory(connection, "pg_advisory_unlock")


def _advisory(connection: Connection, function: str) -> None:
    connection.execute(text(f"SELECT {function}({_ADVISORY_LOCK})"))
    connection.commit()
