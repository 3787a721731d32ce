"""Alembic migrations: upgrade the database, and check whether this release works with its schema.

A migration only adds (docs/decisions/0054), so a release also works with the schema of the next one, and both can run
side by side during an upgrade.
"""

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from app.db.engine import Database
from app.errors import Conflict
from app.settings import Settings

VERSION_TABLE = "palate_alembic_version"  # other Alembic users may share the database
_ADVISORY_LOCK = 0x70616C61  # any constant of our own: "pala"
_LOCK_TIMEOUT = "2s"
"""Queries queue up behind a statement that waits for a table lock, so it gives up after this and tries again."""
_LOCK_NOT_AVAILABLE = "55P03"
_TRIES, _RETRY_DELAY = 30, 1.0  # seconds

log = logging.getLogger(__name__)


class OldSchema(Conflict):
    """The schema of a server is older than this release needs."""

    def __init__(self) -> None:
        super().__init__("the database schema is not current: run `palate migrate` first")


def upgrade(database: Database, settings: Settings) -> None:
    """Upgrade the schema to the newest revision; one process at a time, the others wait and find nothing to do.

    The schema of a newer release is left as it is. On PostgreSQL a migration waits for table locks only briefly and
    then starts again, so that it never blocks requests for long.
    """
    with _one_at_a_time(database, settings):
        for tries_left in reversed(range(_TRIES)):
            try:
                _upgrade(database)
                break
            except OperationalError as error:
                if database.is_sqlite or getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE or not tries_left:
                    raise
            log.info("the tables are in use; trying again in %.0f s", _RETRY_DELAY)
            time.sleep(_RETRY_DELAY)


def _upgrade(database: Database) -> None:
    with database.engine.connect() as connection:
        if database.is_sqlite:
            connection.execution_options(sqlite_begin="BEGIN IMMEDIATE")
        with connection.begin():
            if not database.is_sqlite:
                connection.execute(text(f"SET LOCAL lock_timeout TO '{_LOCK_TIMEOUT}'"))
            if _is_newer(current(connection)):
                return
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def prepare(database: Database, settings: Settings, *, may_migrate_server: bool = False) -> None:
    """Upgrade an SQLite file, and a server if allowed; raises OldSchema if a server's schema must be upgraded first."""
    if database.is_sqlite or may_migrate_server:
        upgrade(database, settings)
    elif not is_usable(database):
        raise OldSchema


def is_usable(database: Database) -> bool:
    """Whether this code works with the schema: its own, or one of a newer release."""
    with database.read() as connection:
        return works_with(current(connection))


def works_with(schema: str | None) -> bool:
    """Whether this code works with schema revision `schema`; None: an empty database."""
    return schema == head() or _is_newer(schema)


def _is_newer(schema: str | None) -> bool:
    return schema is not None and not knows(schema)


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
