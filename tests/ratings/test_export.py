"""The digest and the export agree with what is stored."""

import hashlib
import struct

import anyio
import pytest

from app.db.engine import Database
from app.ratings import export
from app.ratings.api import _exported, _in_threads
from app.ratings.bulk_read import hold_snapshot
from app.ratings.erasure import erase_user
from app.ratings.models import NewRating
from tests.ratings.test_bulk_read import MOMENT, fill, some_ratings


def digest(database: Database) -> str:
    with database.read() as connection:
        hold_snapshot(connection)
        return export.ratings_digest(connection)


def test_the_digest_does_not_depend_on_the_order_or_the_keys(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_DIGEST_USERS", 7)
    ratings = some_ratings(30, 20)
    fill(database, ratings)
    first = digest(database)
    with database.write() as connection:
        for user in range(30):
            erase_user(connection, f"u{user}")
    assert digest(database) != first
    monkeypatch.setattr(export, "_DIGEST_USERS", 11)
    fill(database, ratings[::-1])
    assert digest(database) == first


def test_the_digest_is_what_its_description_says_in_either_kind_of_database(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids in code-point order, which is neither that of a language nor that of UTF-16."""
    monkeypatch.setattr(export, "_DIGEST_USERS", 2)
    ids = ["b", "B", "a b", "\u00e9", "z", "\uffee", "\U0001f600", "10", "9"]
    fill(database, [NewRating(user, item, 3.5, MOMENT) for user in ids for item in ids if user != item])
    expected = hashlib.sha256()
    for user in sorted(ids):
        items = [item for item in sorted(ids) if item != user]
        expected.update("\n".join([user, str(len(items)), *items]).encode())
        expected.update(struct.pack("<d", 3.5) * len(items) + struct.pack("<q", MOMENT) * len(items))
    assert digest(database) == expected.hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        NewRating("ann", "dune", 4.5, MOMENT),
        NewRating("ann", "dune", 4.0, MOMENT + 1),
        NewRating("ann", "heat", 4.0, MOMENT),
        NewRating("bob", "dune", 4.0, MOMENT),
    ],
)
def test_every_part_of_a_rating_counts_in_the_digest(database: Database, other: NewRating) -> None:
    fill(database, [NewRating("ann", "dune", 4.0, MOMENT)])
    before = digest(database)
    fill(database, [other])
    assert digest(database) != before


def test_an_export_of_many_pages_holds_every_rating_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_PAGE_ROWS", 7)
    ratings = some_ratings(20, 15)
    fill(database, ratings)
    with database.read() as connection:
        lines = b"".join(export.export(connection, "csv")).decode().splitlines()[1:]
    assert sorted(tuple(line.split(",")[:3]) for line in lines) == sorted(
        (one.user_id, one.item_id, str(one.value)) for one in ratings
    )


def test_an_export_whose_reader_goes_away_gives_its_connection_back(database: Database) -> None:
    fill(database, some_ratings(5, 5))

    async def read_one_block() -> bytes:
        blocks = _in_threads(_exported(database, "csv"))
        first = await anext(blocks)
        await blocks.aclose()  # type: ignore[attr-defined]
        return first

    assert anyio.run(read_one_block).startswith(b"user_id")
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
