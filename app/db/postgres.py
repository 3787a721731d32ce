"""Connections to a PostgreSQL server that may restart, be cut off or stand still: nobody waits for it for ever.

A server that is gone says so at once; one that stands still, or whose machine is gone, says nothing. So an answer to
the simplest question is waited for in the background (`Watch`), and whoever waits for another one is let go as soon as
that one fails to come.
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

CONNECT_PATIENCE = 3
"""Seconds for a connection to come about."""
PATIENCE = 3.0
"""Seconds for the answer to the simplest question; a server that takes longer is away."""
_CHECK_INTERVAL = 0.5
"""Seconds."""
_TRUSTED_FOR = 1.0
"""Seconds for which a connection that was just used is not asked whether it lives."""
_READY_NONE = 0

_CONNECT_ARGS: dict[str, Any] = {
    "fallback_application_name": "palate",
    "connect_timeout": CONNECT_PATIENCE,
    # A machine that is gone acknowledges nothing: found out within seconds instead of a quarter of an hour.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


class DatabaseAway(OperationalError):
    """The server does not answer, and was not asked this time."""

    def __init__(self) -> None:
        super().__init__(None, None, psycopg.OperationalError("the server does not answer"))


class PatientConnection(psycopg.Connection[Any]):
    """A connection that lets go of whoever waits for the server once that is said to be away."""

    is_away: Callable[[], bool] = staticmethod(lambda: False)
    patience: float | None = None

    def wait(self, gen: Generator[Any, int, T], interval: float = 0.1, timeout: float | None = None) -> T:
        """As psycopg's; raises OperationalError, and the connection is closed, when the server is away."""
        try:
            return super().wait(self._unless_away(gen), interval, self.patience if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.is_away() or self.patience is not None:
                self.pgconn.finish()  # an answer may still come, to a question that nobody remembers
            raise

    def _unless_away(self, gen: Generator[Any, int, T]) -> Generator[Any, int, T]:
        """Every tenth of a second without an answer psycopg tells its generator that there is none yet."""
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready == _READY_NONE and self.is_away():
                    raise psycopg.OperationalError("the server does not answer any more")
                wanted = gen.send(ready)
        except StopIteration as done:
            value: T = done.value
            return value


class Watch:
    """Asks the server the simplest question twice a second, on its own connection: is it away?"""

    def __init__(self, url: URL) -> None:
        self.is_away = False
        self._engine = create_engine(url, pool_size=1, connect_args=_connect_args(url, None))
        _connect_with(self._engine, lambda: False, PATIENCE)
        self._thread = PeriodicThread(self._check, _CHECK_INTERVAL, "database-watch")

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
    """An engine whose statements end: by the server after `statement_timeout` seconds, and here when it is away."""
    connect_args = _connect_args(url, statement_timeout)
    engine = create_engine(url, connect_args=connect_args, hide_parameters=True, **pool)  # errors are logged
    _connect_with(engine, is_away, None)
    _ask_the_idle(engine)
    return engine


def _connect_args(url: URL, statement_timeout: float | None) -> dict[str, Any]:
    """What the URL does not say itself."""
    arguments = {name: value for name, value in _CONNECT_ARGS.items() if name not in url.query}
    if statement_timeout:
        own = url.query.get("options", "")
        arguments["options"] = f"-c statement_timeout={int(statement_timeout * 1000)} {own}"
    return arguments


def _connect_with(engine: Engine, is_away: Callable[[], bool], patience: float | None) -> None:
    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: Any, named: Any) -> PatientConnection:
        connection = PatientConnection.connect(*arguments, **named)
        connection.is_away, connection.patience = is_away, patience
        return connection


def _ask_the_idle(engine: Engine) -> None:
    """Whether a connection lives is asked where it has rested: under load that would be a round trip per request."""

    @event.listens_for(engine, "checkin")
    def _rests(_raw: Any, record: ConnectionPoolEntry) -> None:
        record.info["rests_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _is_taken(raw: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        if time.monotonic() - record.info.get("rests_since", time.monotonic()) < _TRUSTED_FOR:
            return
        try:
            engine.dialect.do_ping(raw)
        except psycopg.Error as error:
            raise InvalidatePoolError from error  # the others have not lived longer
