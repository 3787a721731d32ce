"""The database of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.cli.terminal import CommandFailed
from app.settings import Settings, read_settings

if TYPE_CHECKING:
    from app.db.engine import Database


@contextmanager
def opened_database(*, may_create: bool = False, may_migrate: bool = False) -> Iterator[tuple[Database, Settings]]:
    """The database of the settings at the current schema, closed when the block ends.

    Only commands that fill a database create a missing one: a mistyped folder must not look like an empty database.
    A server is migrated only with `may_migrate`, because processes of another release may be using it.
    """
    import migrations
    from app.db.engine import open_database

    settings = read_settings()
    file = settings.sqlite_file
    if file and not may_create and not file.exists():
        raise CommandFailed(f"there is no database at {file}; `palate import` and `palate serve` create one")
    database = open_database(settings)
    try:
        migrations.prepare(database, settings, may_migrate_server=may_migrate)
        yield database, settings
    finally:
        database.dispose()
