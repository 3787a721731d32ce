"""Connections to a PostgreSQL server; tests/test_database_away.py stops and freezes one."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import make_url

from app.db import postgres
from app.db.engine import Database, open_database
from app.settings import Settings


def test_what_the_url_of_a_server_says_is_kept_beside_the_timeouts(request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres_url")
    options = "-c statement_timeout=7000 -c search_path=elsewhere"
    asked = make_url(url).update_query_dict({"options": options}).render_as_string(hide_password=False)
    database = open_database(Settings(database_url=asked), timedelta(seconds=30))
    with database.read() as connection:
        told = [
            connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in ("search_path", "statement_timeout")
        ]
    database.dispose()
    assert told == ["elsewhere", "7s"]


@pytest.mark.parametrize("transaction", [Database.read, Database.write, Database.write_at_once])
def test_nobody_waits_for_a_server_that_is_known_to_be_away(transaction: Callable[..., Any]) -> None:
    """Single ratings waited seconds each for a server that stood still, and were then written unasked."""
    watch = postgres.ServerMonitor(make_url("postgresql://nobody@192.0.2.1/nothing"))  # an address that nobody has
    watch.is_away = True
    engine = postgres.connect_engine(make_url("postgresql://nobody@192.0.2.1/nothing"), lambda: True, None)
    database = Database(engine, watch)
    with pytest.raises(postgres.DatabaseAway), transaction(database):
        pass
    database.dispose()


def test_a_connection_that_rested_is_asked_whether_it_lives_before_it_is_used(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_TRUSTED_FOR", 0.0)
    database = open_database(Settings(database_url=request.getfixturevalue("postgres_url")))
    with database.read() as connection, database.read() as second:
        numbers = [each.connection.driver_connection.info.backend_pid for each in (connection, second)]  # type: ignore[union-attr]
    other = open_database(Settings(database_url=request.getfixturevalue("postgres_url")))
    with other.read() as connection:
        for number in numbers:
            connection.exec_driver_sql(f"SELECT pg_terminate_backend({number})")
    for _ in range(2):
        with database.read() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
    other.dispose()
    database.dispose()
