"""The database: one engine, read and write transactions, table conventions, and the revision counters.

SQLite (WAL) and PostgreSQL run the same code. A write transaction takes its counter row first, so
writers queue behind each other and revisions become visible in the order of their numbers.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, Request
from sqlalchemy import (
    BigInteger,
    Connection,
    Dialect,
    Engine,
    MetaData,
    String,
    bindparam,
    create_engine,
    event,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from app.postgres import DatabaseAway, Watch, connect_engine
from app.settings import Settings

DATABASE_IS_AWAY = (OperationalError, InterfaceError)
"""What is raised where the database cannot be reached, or does not answer in time."""
ID_LENGTH = 128
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_CONNECTIONS = 32
POOL_PATIENCE = 5.0
"""Seconds that a caller waits for a connection of the pool: one that all others hold for longer is not coming back."""


class UtcTime(TypeDecorator[datetime]):
    """A time-zone-aware UTC time kept as whole microseconds since 1970: exact, compact and the same everywhere."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> int | None:
        return None if value is None else microseconds_of(value)

    def process_result_value(self, value: int | None, _dialect: Dialect) -> datetime | None:
        return None if value is None else time_of(value)


class Base(DeclarativeBase):
    """Base of every table: named constraints, so that migrations can address them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Counter(Base):
    """The highest revision given out (ratings, items), and how many rows there are (n_ratings, n_users, n_items)."""

    __tablename__ = "counters"
    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)


CounterName = Literal["ratings", "items", "n_ratings", "n_users", "n_items"]


def utc_now() -> datetime:
    return datetime.now(UTC)


def microseconds_of(time: datetime) -> int:
    """Whole microseconds since 1970."""
    return (time - EPOCH) // timedelta(microseconds=1)


def time_of(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)


class Database:
    """Read and write transactions on one engine; safe to use from many threads."""

    def __init__(self, engine: Engine, watch: Watch | None = None) -> None:
        self.engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._watch = watch
        # SQLite's own queue for writers is a back-off with sleeps; a lock lets them follow at once.
        self._sqlite_writer = threading.Lock()

    @property
    def is_away(self) -> bool:
        """Whether the server is known not to answer; never where nobody watches it."""
        return self._watch is not None and self._watch.is_away

    def watch(self) -> None:
        """Find out in the background when a server is away, and let nobody wait for it meanwhile."""
        if self._watch:
            self._watch.start()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the data (SQLite) or the latest commits (PostgreSQL)."""
        self._refuse_while_away()
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def read_at_once(self) -> Iterator[Connection]:
        """As `read`, for a block that is one statement on a server: no transaction is begun and ended around it."""
        self._refuse_while_away()
        with self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed when the block ends, and undone when it raises."""
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
        """As `write`, for a block that is one statement on a server: begun and committed without asking for it."""
        if self.is_sqlite:
            with self.write() as connection:
                yield connection
            return
        self._refuse_while_away()
        with self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def open_reader(self) -> "Reader":
        """A connection of one thread's own; close it."""
        return Reader(self.engine)

    def others(self) -> str | None:
        """Who else has the database open, in words; None: nobody. Closes the connections of the pool that are idle."""
        self.engine.dispose()
        if self.is_sqlite:
            return "another process has the database open" if is_open(str(self.engine.url.database)) else None
        with self.engine.connect() as connection:
            n_sessions, addresses = connection.execute(text(_OTHER_SESSIONS)).one()
        return f"{n_sessions} sessions of Palate are open on the database, from {addresses}" if n_sessions else None

    def now(self, connection: Connection) -> datetime:
        """The time by the database's clock, the one clock that all processes share."""
        if self.is_sqlite:
            return utc_now()
        now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return now.astimezone(UTC)

    def dispose(self) -> None:
        if self._watch:
            self._watch.stop()
        self.engine.dispose()

    def _refuse_while_away(self) -> None:
        if self.is_away:
            raise DatabaseAway


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


def open_database(settings: Settings, statement_timeout: timedelta | None = None) -> Database:
    """Open the database of `settings`; the folder of an SQLite file is made.

    A server gives up on statements that take longer than `statement_timeout`.
    """
    url = make_url(settings.sqlalchemy_url)
    half = MAX_CONNECTIONS // 2
    pool = {"pool_size": half, "max_overflow": MAX_CONNECTIONS - half, "pool_timeout": POOL_PATIENCE}
    if url.get_backend_name() == "sqlite":
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, connect_args={"timeout": 30}, hide_parameters=True, **pool)
        _prepare_sqlite(engine, settings.sqlite_synchronous)
        return Database(engine)
    watch = Watch(url)
    seconds = statement_timeout.total_seconds() if statement_timeout else None
    return Database(connect_engine(url, lambda: watch.is_away, seconds, **pool), watch)


def _prepare_sqlite(engine: Engine, synchronous: str) -> None:
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, not guessed by the driver
        for pragma in (
            f"synchronous={synchronous}",
            "journal_mode=WAL",
            "foreign_keys=ON",
            "cache_size=-4096",  # KiB of each of several connections; the system keeps the file once for all
            "secure_delete=ON",  # deleted rows are overwritten with zeros
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))


def is_open(path: str | Path) -> bool:
    """Whether anybody has this SQLite file open: in WAL mode that keeps others from having it alone."""
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
"""All processes of Palate call themselves so (see `postgres`), or as the URL says; other programs do not."""


def forget_pages(connection: Connection) -> None:
    """Free what SQLite keeps of the file for this connection, up to 4 MB; a server keeps its own."""
    if connection.dialect.name == "sqlite":
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


# Built once: on the way of every request, building a statement costs more than running it.
_REVISION = select(Counter.value).where(Counter.name == bindparam("counter"))
_ADVANCE = (
    update(Counter)
    .where(Counter.name == bindparam("counter"))
    .values(value=Counter.value + bindparam("n"))
    .returning(Counter.value)
)


def advance(connection: Connection, counter: CounterName, n: int) -> int:
    """Take `n` revisions and return the last of them; the counter's row stays locked until the commit.

    The lock makes revisions commit-ordered: whoever has seen revision R misses no row with a revision <= R.
    """
    return connection.execute(_ADVANCE, {"counter": counter, "n": n}).scalar_one()


def revision(connection: Connection, counter: CounterName) -> int:
    """The highest committed revision."""
    return connection.execute(_REVISION, {"counter": counter}).scalar_one()


def peek_revision(connection: Connection, counter: CounterName) -> int:
    """The same, asked of the driver itself: six times as fast, for the way of every request; begins no transaction."""
    with driver(connection) as raw:
        newest: int = raw.execute(f"SELECT value FROM counters WHERE name = '{counter}'").fetchone()[0]  # noqa: S608
    return newest


async def database_of(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


DatabaseDep = Annotated[Database, Depends(database_of)]
