"""Connections beneath SQLAlchemy: broken ones are replaced, and a reader notices every commit."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError

from app.db.connections import Reader
from app.db.engine import Database, open_database
from app.db.ids import ids_of_keys, keys_of_ids
from app.db.revisions import advance, peek_revision
from app.main import create_app
from app.ratings import store, user_ratings
from app.ratings.models import NewRating
from app.settings import Settings
from tests.asgi import serving
from tests.ratings.writing import save

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


def test_the_data_version_changes_with_every_commit_of_another_connection_and_with_nothing_else(
    sqlite_settings: Settings,
) -> None:
    database = open_database(sqlite_settings)
    reader = Reader(database.engine)
    versions = [reader.data_version(), reader.data_version()]
    for _ in range(2):
        with database.write() as connection:
            advance(connection, "ratings", 1)
        versions.append(reader.data_version())
    reader.connection.close()
    database.dispose()
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3
