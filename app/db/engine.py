"""The database: one engine, and read and write transactions on it.

SQLite (WAL) and PostgreSQL run the same code. A write transaction locks a counter row first, so writers wait for each
other and revisions become visible in the order of their numbers.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import InterfaceError, OperationalError

from app.db.postgres import DatabaseAway, ServerMonitor, connect_engine
from app.db.tables import utc_now
from app.settings import Settings

DATABASE_IS_AWAY = (OperationalError, InterfaceError)
"""Errors raised if the database cannot be reached or does not answer in time."""
MAX_CONNECTIONS = 32
POOL_TIMEOUT = 5.0
"""Seconds that a caller waits for a connection of the pool; if none is free by then, none will be soon."""


class Database:
    """Read and write transactions on one engine; safe to use from many threads."""

    def __init__(self, engine: Engine, monitor: ServerMonitor | None = None) -> None:
        self.engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._monitor = monitor
        # SQLite itself makes waiting writers sleep with back-off; with a lock the next one starts at once.
        self._sqlite_writer = threading.Lock()

    @property
    def is_away(self) -> bool:
        """Whether the server is known not to answer; False if it is not monitored."""
        return self._monitor is not None and self._monitor.is_away

    def watch(self) -> None:
        """Check in the background whether a server answers; while it does not, transactions fail at once."""
        if self._monitor:
            self._monitor.start()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the data (SQLite) or the latest commits (PostgreSQL)."""
        self._refuse_while_away()
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def read_at_once(self) -> Iterator[Connection]:
        """As `read`, for a block of one statement: on a server it costs no BEGIN and no ROLLBACK."""
        self._refuse_while_away()
        with self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed when the block ends, and rolled back if it raises."""
        if not self.is_sqlite:
            self._refuse_while_away()
            with self.engine.begin() as connection:
                yield connection
            return
        with self._sqlite_writer, self.engine.connect() as connection:
            connection.execution_options(sqlite_begin="BEGIN IMMEDIATE")
            with connection.begin():
                yield connection

    @contextmanager
    def write_at_once(self) -> Iterator[Connection]:
        """As `write`, for a block that is one statement on a server, where it costs no BEGIN and no COMMIT."""
        if self.is_sqlite:
            with self.write() as connection:
                yield connection
            return
        self._refuse_while_away()
        with self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def other_sessions(self) -> str | None:
        """Who else has the database open, as a phrase, or None. Closes the idle connections of the pool."""
        self.engine.dispose()
        if self.is_sqlite:
            return "another process has the database open" if is_open(str(self.engine.url.database)) else None
        with self.engine.connect() as connection:
            n_sessions, addresses = connection.execute(text(_OTHER_SESSIONS)).one()
        return f"{n_sessions} sessions of Palate are open on the database, from {addresses}" if n_sessions else None

    def now(self, connection: Connection) -> datetime:
        """The time of the database's clock, which all processes share."""
        if self.is_sqlite:
            return utc_now()
        now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return now.astimezone(UTC)

    def dispose(self) -> None:
        if self._monitor:
            self._monitor.stop()
        self.engine.dispose()

    def _refuse_while_away(self) -> None:
        if self.is_away:
            raise DatabaseAway


def open_database(settings: Settings, statement_timeout: timedelta | None = None) -> Database:
    """Open the database of `settings`; creates the folder of an SQLite file.

    A server cancels statements that take longer than `statement_timeout`.
    """
    url = make_url(settings.sqlalchemy_url)
    half = MAX_CONNECTIONS // 2
    pool = {"pool_size": half, "max_overflow": MAX_CONNECTIONS - half, "pool_timeout": POOL_TIMEOUT}
    if url.get_backend_name() == "sqlite":
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, connect_args={"timeout": 30}, hide_parameters=True, **pool)
        _prepare_sqlite(engine, settings.sqlite_synchronous)
        return Database(engine)
    monitor = ServerMonitor(url)
    seconds = statement_timeout.total_seconds() if statement_timeout else None
    return Database(connect_engine(url, lambda: monitor.is_away, seconds, **pool), monitor)


def _prepare_sqlite(engine: Engine, synchronous: str) -> None:
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions begin below; the driver would guess
        for pragma in (
            f"synchronous={synchronous}",
            "journal_mode=WAL",
            "foreign_keys=ON",
            "cache_size=-4096",  # KiB for each of several connections; the system caches the file once for all
            "secure_delete=ON",  # deleted rows are overwritten with zeros
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))


def is_open(path: str | Path) -> bool:
    """Whether any process has this SQLite file open: in WAL mode that prevents exclusive locking."""
    probe = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        probe.execute("PRAGMA locking_mode=EXCLUSIVE")
        probe.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        return True
    finally:
        probe.close()
    return False


_OTHER_SESSIONS = """
    SELECT count(*), string_agg(DISTINCT coalesce(host(client_addr), 'this machine'), ', ') FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND (application_name LIKE 'palate%' OR application_name = current_setting('application_name'))"""
"""All processes of Palate have this application name (see `postgres`), or the one in the URL."""


async def database_of(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


DatabaseDep = Annotated[Database, Depends(database_of)]
