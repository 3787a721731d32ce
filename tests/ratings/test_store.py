"""Saving, replacing and deleting ratings, and the revisions that tell it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from sqlalchemy import func, select

from app.db.engine import Database
from app.db.ids import read_ids
from app.db.revisions import revision
from app.db.tables import microseconds_of
from app.imports.line_import import BatchCounts
from app.items import store as items
from app.ratings import store, user_ratings
from app.ratings.erasure import erase_item, erase_user
from app.ratings.models import DeletedRating, NewRating, Outcome, Rating, SavedRating
from tests.ratings import writing

MONDAY = datetime(2026, 1, 5, 12, tzinfo=UTC)
TUESDAY = MONDAY + timedelta(days=1)
WEDNESDAY = MONDAY + timedelta(days=2)


def save(
    database: Database,
    user_id: str,
    item_id: str,
    value: float,
    rated_at: datetime | None = None,
    now: datetime = MONDAY,
) -> SavedRating:
    with database.write() as connection:
        return writing.save(connection, user_id, item_id, value, rated_at, now)


def save_many(database: Database, *ratings: tuple[str, str, float]) -> BatchCounts:
    with database.write() as connection:
        return store.save_many(connection, [NewRating(*rating) for rating in ratings], MONDAY)


def values_of(database: Database, user_id: str) -> list[float]:
    with database.read() as connection:
        return user_ratings.read_one(connection, user_id).values.tolist()


def totals(database: Database) -> tuple[int, ...]:
    with database.read() as connection:
        return tuple(store.totals(connection))


def test_rating_again_replaces_the_value_and_takes_the_next_revision(database: Database) -> None:
    first = save(database, "ann", "dune", 3)
    second = save(database, "ann", "dune", 5)
    assert (first.outcome, first.revision) == ("created", 1)
    assert (second.outcome, second.revision) == ("updated", 2)
    assert values_of(database, "ann") == [5.0]


@dataclass(frozen=True)
class Case:
    """A rating of `value` at `time`, for a pair that has the state `before`, and what becomes of it."""

    before: Literal["unknown ids", "not rated", "deleted", "rated 3 on Monday"]
    value: float
    time: datetime | None
    outcome: Outcome
    rated_at: datetime

    def __str__(self) -> str:
        time = f"{self.time:%A}" if self.time else "no time"
        return f"{self.before}, then {self.value:g} with {time}"


CASES = [
    *(
        Case(before, 3, time, "created", rated_at)
        for before in ("unknown ids", "not rated", "deleted")
        for time, rated_at in ((None, WEDNESDAY), (MONDAY, MONDAY), (TUESDAY, TUESDAY))
    ),
    Case("rated 3 on Monday", 3, None, "unchanged", MONDAY),
    Case("rated 3 on Monday", 3, MONDAY, "unchanged", MONDAY),
    Case("rated 3 on Monday", 3, TUESDAY, "updated", TUESDAY),
    Case("rated 3 on Monday", 4, None, "updated", WEDNESDAY),
    Case("rated 3 on Monday", 4, MONDAY, "updated", MONDAY),
    Case("rated 3 on Monday", 4, TUESDAY, "updated", TUESDAY),
]


def prepare(database: Database, before: str) -> None:
    save(database, "bob", "heat", 1, MONDAY)
    if before == "unknown ids":
        return
    save_many(database, ("ann", "heat", 1), ("bob", "dune", 1))
    if before != "not rated":
        save(database, "ann", "dune", 3, MONDAY)
    if before == "deleted":
        with database.write() as connection:
            store.remove(connection, "ann", "dune")


@pytest.mark.parametrize("way", ["one", "each", "many"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_becomes_of_a_rating(database: Database, case: Case, way: str) -> None:
    """Every way of writing decides alike, on both kinds of database."""
    prepare(database, case.before)
    rating = NewRating("ann", "dune", case.value, None if case.time is None else microseconds_of(case.time))
    unchanged, created = NewRating("bob", "heat", 1), NewRating("cleo", "alien", 5)
    ratings = [rating] if way == "one" else [unchanged, rating, created]
    with database.write() as connection:
        before, totals_before = revision(connection, "ratings"), store.totals(connection)
        upsert = store.upsert_for(connection)
        expected = before + (case.outcome != "unchanged")
        if way == "many":
            counts = upsert.upsert_many(connection, ratings, WEDNESDAY)
            outcomes: list[Outcome] = ["created", case.outcome, "unchanged"]
            assert counts[:3] == tuple(map(outcomes.count, ("created", "updated", "unchanged")))
            assert counts.revision == expected + 1
        else:
            saved = upsert.upsert_each(connection, ratings, WEDNESDAY)
            assert saved[len(saved) // 2] == SavedRating(
                "ann", "dune", case.value, case.rated_at, case.outcome, expected
            )
            if way == "each":
                assert [one.outcome for one in saved] == ["unchanged", case.outcome, "created"]
                assert [one.revision for one in saved] == [before, expected, expected + 1]
    with database.read() as connection:
        stored = store.get(connection, "ann", "dune")
        assert (stored.value, stored.rated_at) == (case.value, case.rated_at)
        assert revision(connection, "ratings") == expected + (way != "one")
        n_created = (case.outcome == "created") + (way != "one")
        assert store.totals(connection).n_ratings == totals_before.n_ratings + n_created
        assert store.totals(connection).n_ratings == connection.scalar(select(func.count()).select_from(Rating))
        assert connection.scalar(select(func.count()).select_from(DeletedRating)) == 0


def test_a_batch_says_what_was_created_updated_and_unchanged(database: Database) -> None:
    save_many(database, ("ann", "dune", 3), ("ann", "heat", 4))
    counts = save_many(database, ("ann", "dune", 3), ("ann", "heat", 1), ("bob", "dune", 2), ("bob", "alien", 5))
    assert counts == (2, 1, 1, 5)


def test_the_last_of_several_ratings_of_one_pair_in_a_batch_wins(database: Database) -> None:
    assert save_many(database, ("ann", "dune", 1), ("ann", "heat", 2), ("ann", "dune", 5)) == (2, 0, 0, 2)
    assert sorted(values_of(database, "ann")) == [2.0, 5.0]


def test_an_empty_batch_answers_the_revision_and_changes_nothing(database: Database) -> None:
    save(database, "ann", "dune", 3)
    assert save_many(database) == (0, 0, 0, 1)


def test_every_changed_rating_of_a_batch_has_a_revision_of_its_own(database: Database) -> None:
    save_many(database, ("ann", "dune", 3), ("bob", "dune", 3))
    save_many(database, ("ann", "dune", 3), ("ann", "heat", 3), ("bob", "dune", 4))
    with database.read() as connection:
        revisions = connection.execute(select(Rating.revision)).scalars().all()
    assert sorted(revisions) == [1, 3, 4]


def test_deletions_are_seen_by_the_count_of_changes(database: Database) -> None:
    save_many(database, ("ann", "dune", 3), ("ann", "heat", 4))
    with database.write() as connection:
        assert store.remove(connection, "ann", "dune") == 3
    with database.read() as connection:
        assert [store.count_changes_since(connection, since) for since in (0, 2, 3, 99)] == [3, 1, 0, 0]


def test_a_deleted_rating_can_be_given_again(database: Database) -> None:
    for give_again in (lambda: save(database, "ann", "dune", 4), lambda: save_many(database, ("ann", "dune", 4))):
        give_again()
        with database.write() as connection:
            store.remove(connection, "ann", "dune")
        assert values_of(database, "ann") == []
    assert save(database, "ann", "dune", 4).outcome == "created"
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM deleted_ratings").scalar_one() == 0


def test_deleting_what_was_never_rated_is_refused_and_takes_no_revision(database: Database) -> None:
    save(database, "ann", "dune", 4)
    for user_id, item_id in (("ann", "heat"), ("bob", "dune")):
        with pytest.raises(store.UnknownRating), database.write() as connection:
            store.remove(connection, user_id, item_id)
    with database.read() as connection:
        assert revision(connection, "ratings") == 1


def test_totals_count_what_is_there_through_every_way_of_writing(database: Database) -> None:
    save_many(database, ("ann", "dune", 3), ("ann", "heat", 4), ("bob", "dune", 4))
    save(database, "cleo", "alien", 2)
    save(database, "cleo", "alien", 3)
    assert totals(database) == (4, 3, 3)
    with database.write() as connection:
        store.remove(connection, "ann", "heat")
    assert totals(database) == (3, 3, 3)
    with database.write() as connection:
        erase_user(connection, "bob")
        erase_item(connection, "alien")
    assert totals(database) == (1, 2, 2)


def test_a_failed_batch_leaves_neither_ratings_nor_items_nor_revisions(database: Database) -> None:
    class PowerCutError(Exception):
        pass

    def fail_after_writing() -> None:
        with database.write() as connection:
            store.save_many(connection, [NewRating("ann", "dune", 4.0)], MONDAY)
            raise PowerCutError

    with pytest.raises(PowerCutError):
        fail_after_writing()
    assert totals(database) == (0, 0, 0)
    with database.read() as connection:
        assert revision(connection, "ratings") == revision(connection, "items") == 0


def test_times_are_kept_to_the_microsecond(database: Database) -> None:
    time = MONDAY + timedelta(microseconds=123_457)
    with database.write() as connection:
        store.save_many(connection, [NewRating("ann", "dune", 4.0, microseconds_of(time))])
        assert store.get(connection, "ann", "dune").rated_at == time


def test_rated_items_exist_and_take_an_items_revision_each(database: Database) -> None:
    save_many(database, ("ann", "dune", 3), ("ann", "heat", 4), ("bob", "dune", 4))
    with database.read() as connection:
        changes = items.catalog_changes(connection, 0)
        keys = {items.key_of(connection, item_id) for item_id in ("dune", "heat")}
        assert {item.item_key for item in changes.changed} == keys
        assert changes.revision == 2
        assert {items.get(connection, item_id).revision for item_id in ("dune", "heat")} == {1, 2}


def test_ids_of_any_characters_are_kept_as_they_are(database: Database) -> None:
    odd = ['a"b', "a\\b", "{a,b}", "null", "é\u2028\N{DANCER}", "a b", "'; --"]
    for expected in ((len(odd), 0, 0), (0, 0, len(odd))):
        assert save_many(database, *((odd_id, odd_id, 3.5) for odd_id in odd))[:3] == expected
    with database.read() as connection:
        assert read_ids(connection, "user").ids == odd
        assert read_ids(connection, "item").ids == odd


def test_new_items_of_ratings_are_numbered_in_the_order_in_which_they_are_first_named(database: Database) -> None:
    save_many(database, ("ann", "dune", 3))
    save_many(database, ("bob", "heat", 3), ("ann", "dune", 4), ("cleo", "alien", 3), ("bob", "alien", 3))
    with database.read() as connection:
        rows = connection.exec_driver_sql("SELECT item_id, revision FROM items ORDER BY item_key").all()
        assert [tuple(row) for row in rows] == [("dune", 1), ("heat", 2), ("alien", 3)]
        assert revision(connection, "items") == 3
        assert read_ids(connection, "user").ids == ["ann", "bob", "cleo"]
        assert store.totals(connection) == (4, 3, 3)
