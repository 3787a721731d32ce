"""The settings and the database of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.terminal import USAGE_ERROR, CommandFailed, errors_as_one_line
from app.settings import Settings, UnusableSettings, read_settings

if TYPE_CHECKING:
    from app.db.engine import Database


def settings_or_exit() -> Settings:
    """The settings of the environment; raises CommandFailed if one is invalid."""
    try:
        return read_settings()
    except UnusableSettings as unusable:
        raise CommandFailed(str(unusable), USAGE_ERROR) from unusable


@contextmanager
def opened_database(*, may_create: bool = False, may_migrate: bool = False) -> Iterator[tuple[Database, Settings]]:
    """The database at the current schema, closed when the block ends; errors in the block become one line.

    Only commands that fill a database create a missing one. An SQLite file is migrated by any command that opens it.
    A server is migrated only with `may_migrate`, because processes of another release may be using it.
    """
    import migrations
    from app.db.engine import open_database

    settings = settings_or_exit()
    if not may_create:
        _refuse_missing(settings)
    with errors_as_one_line():
        database = open_database(settings)
        try:
            if database.is_sqlite or may_migrate:
                migrations.upgrade(database, settings)
            elif not migrations.is_usable(database):
                raise CommandFailed("the database schema is not current: run `palate migrate` first")
            yield database, settings
        finally:
            database.dispose()


def _refuse_missing(settings: Settings) -> None:
    """A mistyped folder must not look like an empty database."""
    from sqlalchemy import make_url

    url = make_url(settings.sqlalchemy_url)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        raise CommandFailed(f"there is no database at {url.database}; `palate import` and `palate serve` create one")
