"""Single connections: the event loop's own, and the driver's connection beneath SQLAlchemy's."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

DataVersion = tuple[int, int]
"""What `Reader.data_version` returns: equal values mean that nothing was committed in between."""


class Reader:
    """A connection that stays open, for a thread that must never wait for the pool, such as the event loop's."""

    def __init__(self, engine: Engine) -> None:
        self.connection = engine.connect()
        self._last_connection: Any = None
        self._n_opened = 0

    def data_version(self) -> DataVersion:
        """A value that every commit changes, of this process or another; SQLite only, 3 microseconds.

        SQLite counts for each connection separately, so the value also tells a new connection from the one before.
        """
        raw: Any = self.connection.connection.driver_connection
        if raw is not self._last_connection:
            self._last_connection, self._n_opened = raw, self._n_opened + 1
        try:
            return self._n_opened, raw.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error as error:  # not by `driver`, which takes as long as the rest
            raise _database_error(self.connection, error) from error


def is_sqlite(bind: Connection | Engine) -> bool:
    return bind.dialect.name == "sqlite"


def shrink_cache(connection: Connection) -> None:
    """Free this connection's page cache, up to 4 MB; SQLite only."""
    if is_sqlite(connection):
        connection.exec_driver_sql("PRAGMA shrink_memory")


@contextmanager
def driver(connection: Connection) -> Iterator[Any]:
    """The driver's connection, for queries that must be fast; its errors are raised as SQLAlchemy's."""
    try:
        yield connection.connection.driver_connection
    except connection.dialect.loaded_dbapi.Error as error:
        raise _database_error(connection, error) from error


def _database_error(connection: Connection, error: Any) -> Exception:
    """An error of the driver as SQLAlchemy's. A broken connection is invalidated: the pool never hands it out again."""
    dialect = connection.dialect
    is_broken = dialect.is_disconnect(error, connection.connection.driver_connection, None)
    if is_broken:
        connection.invalidate(error)
    kind = dialect.loaded_dbapi.Error
    translated = DBAPIError.instance(None, None, error, kind, connection_invalidated=is_broken, dialect=dialect)
    assert isinstance(translated, Exception)
    return translated


_SORT_SETTINGS = {"work_mem": "'64MB'", "enable_indexscan": "off", "enable_hashagg": "off"}


@contextmanager
def driver_for_sorting(connection: Connection) -> Iterator[Any]:
    """The driver's connection to a server, for queries that sort a whole table: sorted in one pass.

    By default the planner underestimates random page reads and follows an index to each row, or groups in a hash table
    that spills to disk: eight times as slow if rows are stored in order of arrival.
    """
    with driver(connection) as raw:
        raw.execute("; ".join(f"SET LOCAL {name} TO {value}" for name, value in _SORT_SETTINGS.items()))
        yield raw
        raw.execute("; ".join(f"SET LOCAL {name} TO DEFAULT" for name in _SORT_SETTINGS))
