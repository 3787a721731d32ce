"""Connections to a PostgreSQL server that may restart, be cut off or hang: no caller waits for it forever.

A server that stops closes its connections at once; one that hangs, or whose machine is down, does not. So a background
thread checks whether the server answers (`ServerMonitor`), and all waiting callers fail as soon as it does not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import psycopg
from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from app.periodic_thread import PeriodicThread

log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_TIMEOUT = 3
"""Seconds."""
CHECK_TIMEOUT = 3.0
"""Seconds for the answer to `SELECT 1`; a server that takes longer is away."""
_CHECK_INTERVAL = 0.5
"""Seconds."""
_TRUSTED_FOR = 1.0
"""Seconds after its last use for which a connection is not pinged."""
_READY_NONE = 0

_CONNECT_ARGS: dict[str, Any] = {
    "fallback_application_name": "palate",
    "connect_timeout": CONNECT_TIMEOUT,
    # A machine that is down acknowledges nothing; this detects it within seconds instead of a quarter of an hour.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


class DatabaseAway(OperationalError):
    """The server is known not to answer, so nothing was sent to it."""

    def __init__(self) -> None:
        super().__init__(None, None, psycopg.OperationalError("the server does not answer"))


class MonitoredConnection(psycopg.Connection[Any]):
    """A connection whose callers stop waiting once the server is known to be away."""

    is_away: Callable[[], bool] = staticmethod(lambda: False)
    timeout: float | None = None

    def wait(self, gen: Generator[Any, int, T], interval: float = 0.1, timeout: float | None = None) -> T:
        """As psycopg's; raises OperationalError and closes the connection if the server is away."""
        try:
            return super().wait(self._unless_away(gen), interval, self.timeout if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.is_away() or self.timeout is not None:
                self.pgconn.finish()  # an answer may still arrive, to a query that was given up
            raise

    def _unless_away(self, gen: Generator[Any, int, T]) -> Generator[Any, int, T]:
        """psycopg resumes its generator every tenth of a second without an answer."""
        try:
            state = next(gen)
            while True:
                ready = yield state
                if ready == _READY_NONE and self.is_away():
                    raise psycopg.OperationalError("the server no longer answers")
                state = gen.send(ready)
        except StopIteration as done:
            value: T = done.value
            return value


class ServerMonitor:
    """Checks twice a second, on a connection of its own, whether the server answers."""

    def __init__(self, url: URL) -> None:
        self.is_away = False
        self._engine = create_engine(url, pool_size=1, connect_args=_connect_args(url, None))
        _connect_with(self._engine, lambda: False, CHECK_TIMEOUT)
        self._thread = PeriodicThread(self._check, _CHECK_INTERVAL, "database-monitor")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop()
        self._engine.dispose()

    def _check(self) -> None:
        is_away = not self._answers()
        if is_away != self.is_away:
            level, state = (logging.ERROR, "away") if is_away else (logging.INFO, "back")
            log.log(level, "the database is %s", state)
        self.is_away = is_away

    def _answers(self) -> bool:
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("SELECT 1")
        except DBAPIError:
            return False
        return True


def connect_engine(url: URL, is_away: Callable[[], bool], statement_timeout: float | None, **pool: Any) -> Engine:
    """An engine whose statements end after `statement_timeout` seconds, and at once when the server is away."""
    connect_args = _connect_args(url, statement_timeout)
    engine = create_engine(url, connect_args=connect_args, hide_parameters=True, **pool)  # errors are logged
    _connect_with(engine, is_away, None)
    _ping_idle_connections(engine)
    return engine


def _connect_args(url: URL, statement_timeout: float | None) -> dict[str, Any]:
    """The arguments that the URL does not set."""
    arguments = {name: value for name, value in _CONNECT_ARGS.items() if name not in url.query}
    if statement_timeout:
        own = url.query.get("options", "")
        arguments["options"] = f"-c statement_timeout={int(statement_timeout * 1000)} {own}"
    return arguments


def _connect_with(engine: Engine, is_away: Callable[[], bool], timeout: float | None) -> None:
    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: Any, named: Any) -> MonitoredConnection:
        connection = MonitoredConnection.connect(*arguments, **named)
        connection.is_away, connection.timeout = is_away, timeout
        return connection


def _ping_idle_connections(engine: Engine) -> None:
    """Ping only connections that were idle: under load, a ping each time would be a round trip per request."""

    @event.listens_for(engine, "checkin")
    def _check_in(_raw: Any, record: ConnectionPoolEntry) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _check_out(raw: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        if time.monotonic() - record.info.get("idle_since", time.monotonic()) < _TRUSTED_FOR:
            return
        try:
            engine.dialect.do_ping(raw)
        except psycopg.Error as error:
            raise InvalidatePoolError from error  # the other idle ones are no better
