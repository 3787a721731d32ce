"""Saving, replacing and deleting ratings, and the revisions that tell it."""

import itertools
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import and_, func, select

from app.db.engine import Database
from app.db.ids import read_ids
from app.db.revisions import revision
from app.db.tables import microseconds_of
from app.items import store as items
from app.ratings import store
from app.ratings.erasure import erase_item, erase_user
from app.ratings.models import DeletedRating, Rating
from app.ratings.store import NewRating, SavedRating

MONDAY = datetime(2026, 1, 5, 12, tzinfo=UTC)
TUESDAY = MONDAY + timedelta(days=1)
_OF_ONE_PAIR = and_(DeletedRating.user_key == Rating.user_key, DeletedRating.item_key == Rating.item_key)


def save(
    database: Database,
    user_id: str,
    item_id: str,
    value: float,
    rated_at: datetime | None = None,
    now: datetime = MONDAY,
) -> SavedRating:
    with database.write() as connection:
        return store.save(connection, user_id, item_id, value, rated_at, now)


def save_many(database: Database, *ratings: tuple[str, str, float]) -> store.BatchCounts:
    with database.write() as connection:
        return store.save_many(connection, [NewRating(*rating) for rating in ratings], MONDAY)


def values_of(database: Database, user_id: str) -> list[float]:
    with database.read() as connection:
        return store.ratings_of_user(connection, user_id).values.tolist()


def totals(database: Database) -> tuple[int, ...]:
    with database.read() as connection:
        return tuple(store.totals(connection))


def test_rating_again_replaces_the_value_and_takes_the_next_revision(database: Database) -> None:
    first = save(database, "ann", "dune", 3)
    second = save(database, "ann", "dune", 5)
    assert (first.outcome, first.revision) == ("created", 1)
    assert (second.outcome, second.revision) == ("updated", 2)
    assert values_of(database, "ann") == [5.0]


def test_the_same_value_again_changes_nothing_and_takes_no_revision(database: Database) -> None:
    save(database, "ann", "dune", 3)
    again = save(database, "ann", "dune", 3, now=TUESDAY)
    assert (again.outcome, again.revision, again.rated_at) == ("unchanged", 1, MONDAY)


def test_the_same_value_at_another_time_is_a_change(database: Database) -> None:
    save(database, "ann", "dune", 3, MONDAY)
    assert save(database, "ann", "dune", 3, MONDAY).outcome == "unchanged"
    assert save(database, "ann", "dune", 3, TUESDAY).outcome == "updated"


def test_replacing_a_value_without_a_time_refreshes_the_time(database: Database) -> None:
    save(database, "ann", "dune", 3, MONDAY)
    assert save(database, "ann", "dune", 4, now=TUESDAY).rated_at == TUESDAY


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


@pytest.mark.parametrize("values", [[4.5, 3.0, -2.125], [4.3, 3.0, 0.1], [1e20, -7.5, 3.0], [1e-7, 2.0, 2**-30]])
def test_a_users_values_come_back_as_they_were_written(database: Database, values: list[float]) -> None:
    save_many(database, *(("ann", f"i{item}", value) for item, value in enumerate(values)))
    assert values_of(database, "ann") == pytest.approx(values, rel=1e-14, abs=0)


def test_a_user_without_ratings_and_nobody_have_none(database: Database) -> None:
    save(database, "ann", "dune", 4)
    with database.write() as connection:
        store.remove(connection, "ann", "dune")
    with database.read() as connection:
        ann, nobody = store.ratings_of_user(connection, "ann"), store.ratings_of_user(connection, "nobody")
    assert ann.user_key is not None
    assert ann.item_keys.size == ann.values.size == ann.newest == 0
    assert nobody.user_key is None
    assert nobody.item_keys.size == 0


def test_the_ratings_of_many_users_equal_those_asked_one_by_one(database: Database) -> None:
    save_many(
        database, *((f"u{user}", f"i{item}", float(1 + (user * item) % 5)) for user in range(7) for item in range(user))
    )
    names = [f"u{user}" for user in range(9)]
    with database.read() as connection:
        together = store.ratings_of_users(connection, names)
        for name in names[1:7]:
            alone = store.ratings_of_user(connection, name)
            assert together[name].user_key == alone.user_key
            assert together[name].item_keys.tolist() == alone.item_keys.tolist() == sorted(alone.item_keys)
            assert together[name].values.tolist() == alone.values.tolist()
            assert together[name].state == alone.state == store.state_of_user(connection, name)
    assert set(together) == set(names[1:7])


def test_the_state_of_a_user_changes_with_every_change_of_the_ratings_and_with_nothing_else(database: Database) -> None:
    def state() -> store.StateOfRatings:
        with database.read() as connection:
            found = store.state_of_user(connection, "ann")
            assert store.ratings_of_user(connection, "ann").state == found
            return found

    seen = [state()]
    for act in (
        lambda: save_many(database, ("ann", "dune", 3), ("ann", "heat", 4)),
        lambda: save_many(database, ("ann", "dune", 5)),
        lambda: remove(database, "ann", "heat"),
        lambda: save_many(database, ("ann", "heat", 4)),
        lambda: remove(database, "ann", "heat"),
        lambda: erase(database, "ann"),
        lambda: save_many(database, ("ann", "dune", 5)),
    ):
        act()
        seen.append(state())
        save_many(database, ("bob", "dune", 3.0 + len(seen) / 100))
        assert state() == seen[-1]
    assert all(before != after for before, after in itertools.pairwise(seen))
    assert seen[3] == seen[5]  # the same ratings
    assert seen[0] == seen[6]  # nobody


def remove(database: Database, user_id: str, item_id: str) -> None:
    with database.write() as connection:
        store.remove(connection, user_id, item_id)


def erase(database: Database, user_id: str) -> None:
    with database.write() as connection:
        erase_user(connection, user_id)


def test_times_are_kept_to_the_microsecond(database: Database) -> None:
    time = MONDAY + timedelta(microseconds=123_457)
    with database.write() as connection:
        store.save_many(connection, [NewRating("ann", "dune", 4.0, microseconds_of(time))])
        assert store.get(connection, "ann", "dune").rated_at == time


def test_rated_items_exist_and_take_an_items_revision_each(database: Database) -> None:
    save_many(database, ("ann", "dune", 3), ("ann", "heat", 4), ("bob", "dune", 4))
    with database.read() as connection:
        changes = items.catalogue(connection, 0)
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


def test_a_rating_alone_becomes_what_it_would_in_company(database: Database) -> None:
    """Other statements write them: users `alone-...` get each rating alone, `company-...` together with another."""
    random = np.random.default_rng(0)
    for minute in range(120):
        who = minute if minute % 10 == 0 else random.integers(3)  # somebody new now and then
        rated_us = [None, None, 1_000_000, 2_000_000][random.integers(4)]
        rating = NewRating(f"alone-{who}", f"i{random.integers(6)}", float(random.integers(1, 4)), rated_us)
        now = MONDAY + timedelta(minutes=minute)
        with database.write() as connection:
            before = revision(connection, "ratings")
            alone = store.save_each(connection, [rating], now)[0]
            between = revision(connection, "ratings")
            company = [rating._replace(user_id=f"company-{who}"), NewRating("nobody", "nothing", 1.0, 1)]
            other = store.save_each(connection, company, now)[0]
            if minute % 7 == 0:
                for user_id in (rating.user_id, company[0].user_id):
                    store.remove(connection, user_id, rating.item_id)
        assert (alone.outcome, alone.rated_at, alone.value) == (other.outcome, other.rated_at, other.value)
        assert (alone.revision - before, between) == (other.revision - between, alone.revision)
    with database.read() as connection:
        assert store.totals(connection).n_ratings == connection.scalar(select(func.count()).select_from(Rating))
        for who in range(3):
            one, two = (store.page_of_user(connection, f"{name}-{who}", 10, None)[0] for name in ("alone", "company"))
            assert [row[1:4] for row in one] == [row[1:4] for row in two]
        assert connection.scalar(select(func.count()).select_from(DeletedRating).join(Rating, _OF_ONE_PAIR)) == 0


def test_an_id_that_would_be_taken_for_two_is_refused(database: Database) -> None:
    """PostgreSQL gets ids as lines; no way in lets an id with the end of a line pass, and this one neither."""
    if database.is_sqlite:
        return
    with pytest.raises(ValueError, match="end of a line"), database.write() as connection:
        store.save_many(connection, [NewRating("ann\nbob", "dune", 4.0)])
    assert totals(database) == (0, 0, 0)
