"""Single connections: one that the event loop owns, and the driver's own beneath SQLAlchemy's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

Changes = tuple[int, int]
"""What `Reader.changes` gives: the same again means that nothing has been committed between the two."""


class Reader:
    """A connection that is kept, for a thread that must never wait for the pool, such as the event loop's."""

    def __init__(self, engine: Engine) -> None:
        self.connection = engine.connect()
        self._seen: Any = None
        self._n_opened = 0

    def end(self) -> None:
        """End the transaction that reading may have begun: the next one sees what was committed meanwhile."""
        if self.connection.in_transaction():
            self.connection.rollback()

    def changes(self) -> Changes:
        """Different after every commit by anybody, this process or another; SQLite only, 4 microseconds.

        SQLite counts for each connection by itself, so that a connection opened anew begins with another number.
        """
        with driver(self.connection) as raw:
            if raw is not self._seen:
                self._seen, self._n_opened = raw, self._n_opened + 1
            return self._n_opened, raw.execute("PRAGMA data_version").fetchone()[0]

    def close(self) -> None:
        self.connection.close()


def is_sqlite(bind: Connection | Engine) -> bool:
    return bind.dialect.name == "sqlite"


def forget_pages(connection: Connection) -> None:
    """Free what SQLite keeps of the file for this connection, up to 4 MB; a server keeps its own."""
    if is_sqlite(connection):
        connection.exec_driver_sql("PRAGMA shrink_memory")


@contextmanager
def driver(connection: Connection) -> Iterator[Any]:
    """The driver's own connection, for what must be fast; its errors leave as SQLAlchemy's.

    A connection that is broken is marked so, and never handed out again.
    """
    raw, dialect = connection.connection.driver_connection, connection.dialect
    kinds = dialect.loaded_dbapi
    try:
        yield raw
    except kinds.Error as error:
        is_broken = dialect.is_disconnect(error, raw, None)
        if is_broken:
            connection.invalidate(error)
        raise DBAPIError.instance(
            None, None, error, kinds.Error, connection_invalidated=is_broken, dialect=dialect
        ) from error


_SORTED = {"work_mem": "'64MB'", "enable_indexscan": "off", "enable_hashagg": "off"}


@contextmanager
def server_that_sorts(connection: Connection) -> Iterator[Any]:
    """The driver's connection to a server, for questions that put a whole table in order: sorted in one pass.

    Left to itself the server follows an index to each row or keeps groups in a table that spills, since it believes
    that pages at random cost little: eight times as long where rows lie in order of arrival.
    """
    with driver(connection) as raw:
        raw.execute("; ".join(f"SET LOCAL {name} TO {value}" for name, value in _SORTED.items()))
        yield raw
        raw.execute("; ".join(f"SET LOCAL {name} TO DEFAULT" for name in _SORTED))
