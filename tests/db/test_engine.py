import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import DBAPIError

import migrations
from app.db import postgres
from app.db.engine import Database, open_database
from app.db.ids import ids_of_keys, keys_of_ids
from app.db.revisions import advance, peek_revision, revision
from app.db.tables import Base
from app.main import create_app
from app.ratings import store, user_ratings
from app.ratings.models import NewRating
from app.settings import Settings
from migrations import VERSION_TABLE
from tests.asgi import serving
from tests.ratings.writing import save


def test_migrations_make_exactly_the_tables_that_the_code_declares(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []


def test_upgrading_an_upgraded_database_changes_nothing(database: Database, settings) -> None:
    migrations.upgrade(database, settings)
    assert migrations.is_usable(database)


def test_a_write_that_raises_gives_its_revisions_back(database: Database) -> None:
    class Stop(Exception):
        pass

    try:
        with database.write() as connection:
            advance(connection, "ratings", 10)
            raise Stop
    except Stop:
        pass
    with database.read() as connection:
        assert revision(connection, "ratings") == 0


def test_the_clock_of_the_database_is_utc(database: Database) -> None:
    with database.read() as connection:
        offset = database.now(connection).utcoffset()
    assert offset is not None
    assert offset.total_seconds() == 0


ASKED_OF_THE_DRIVER: dict[str, Callable[[Connection], object]] = {
    "peek_revision": lambda connection: peek_revision(connection, "items"),
    "keys_of_ids": lambda connection: keys_of_ids(connection, "item", ["dune"]),
    "ratings_of_user": lambda connection: user_ratings.read_one(connection, "ann"),
    "upsert_each": lambda connection: save(connection, "ann", "dune", 4.0),
    "upsert_many": lambda connection: store.save_many(connection, [NewRating("ann", "dune", 4.0)]),
    "ids_of_keys": lambda connection: ids_of_keys(connection, "user", [1]),
}


def cut(database: Database, connection: Connection) -> None:
    """What a server that restarts does to a connection; an SQLite file can only be closed."""
    raw = connection.connection.driver_connection
    assert raw is not None
    if database.is_sqlite:
        raw.close()
        return
    with database.read() as other:
        other.exec_driver_sql(f"SELECT pg_terminate_backend({raw.info.backend_pid})")


@pytest.mark.parametrize("asked", ASKED_OF_THE_DRIVER)
def test_a_connection_that_is_cut_under_a_question_to_the_driver_is_an_error_of_sqlalchemy_and_replaced(
    database: Database, asked: str
) -> None:
    with database.read() as connection:
        cut(database, connection)
        with pytest.raises(DBAPIError) as raised:
            ASKED_OF_THE_DRIVER[asked](connection)
    assert raised.value.connection_invalidated
    with database.read() as connection:
        ASKED_OF_THE_DRIVER[asked](connection)


@pytest.mark.parametrize("path", ["/v1/users/ann/recommendations", "/v1/users/ann/predictions/dune", "/v1/status"])
def test_a_request_whose_connection_is_cut_is_told_to_try_again(settings: Settings, path: str) -> None:
    app = create_app(settings)
    with serving(app) as client:
        database: Database = app.state.database

        is_cut = threading.Event()

        def cut_it(raw: Any, *_: object) -> None:
            if is_cut.is_set():
                return
            is_cut.set()
            if database.is_sqlite:
                raw.close()
            else:
                with database.read() as other:
                    other.exec_driver_sql(f"SELECT pg_terminate_backend({raw.info.backend_pid})")

        app.state.live.stop()  # these two read the database as well
        app.state.keyring.stop()
        event.listen(database.engine, "checkout", cut_it)
        answer = client.get(path)
        assert is_cut.is_set()
        assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1")
        assert client.get(path).status_code == 200


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
