from dataclasses import replace
from pathlib import Path

import numpy as np
from sqlalchemy import delete, select

from app.db.engine import Database
from app.db.ids import keys_of_ids
from app.db.revisions import revision
from app.engine.sgd.local import LocalTrainer
from app.items.models import Item
from app.ratings import store
from app.ratings.models import NewRating, Rating, User
from app.settings import Settings
from app.training.snapshot.categories import NO_CATEGORIES
from app.training.snapshot.take import TrainingSnapshot, take_snapshot
from tests.training.world import QUICK, categorise, fill, ratings_of


def _triples(snapshot: TrainingSnapshot) -> set[tuple[str, str, float]]:
    users, items = snapshot.user_ids.ids_of, snapshot.item_ids.ids_of
    ratings = snapshot.ratings
    return set(zip(users(ratings.user_rows), items(ratings.item_rows), ratings.values.tolist(), strict=True))


def test_a_snapshot_holds_every_rating_under_its_outside_ids(database: Database) -> None:
    given = [NewRating("ann", "dune", 4.5), NewRating("bob", "alien", 1.0), NewRating("ann", "alien", 3.0)]
    fill(database, given)
    snapshot = take_snapshot(database)
    assert _triples(snapshot) == {("ann", "dune", 4.5), ("bob", "alien", 1.0), ("ann", "alien", 3.0)}
    with database.read() as connection:
        assert snapshot.revision == revision(connection, "ratings")


def test_an_empty_database_gives_an_empty_snapshot(database: Database) -> None:
    snapshot = take_snapshot(database)
    assert len(snapshot.ratings) == 0
    assert (snapshot.ratings.n_users, snapshot.ratings.n_items) == (0, 0)
    assert snapshot.holdout_mask(0.5).size == 0


def test_rows_know_their_database_keys(database: Database) -> None:
    fill(database)
    snapshot = take_snapshot(database)
    with database.read() as connection:
        users = dict(map(tuple, connection.execute(select(User.user_key, User.user_id))))
        items = dict(map(tuple, connection.execute(select(Item.item_key, Item.item_id))))
    rows = np.arange(len(snapshot.user_ids), dtype=np.int32)
    assert [users[key] for key in snapshot.user_keys.tolist()] == snapshot.user_ids.ids_of(rows)
    rows = np.arange(len(snapshot.item_ids), dtype=np.int32)
    assert [items[key] for key in snapshot.item_keys.tolist()] == snapshot.item_ids.ids_of(rows)


def test_users_and_items_without_ratings_get_no_row(database: Database) -> None:
    fill(database, [NewRating("ann", "dune", 4.5), NewRating("bob", "alien", 1.0), NewRating("bob", "dune", 1.0)])
    with database.write() as connection:
        store.remove(connection, "ann", "dune")
        store.remove(connection, "bob", "alien")
    snapshot = take_snapshot(database)
    assert _triples(snapshot) == {("bob", "dune", 1.0)}
    assert (len(snapshot.user_ids), len(snapshot.item_ids)) == (1, 1)


def test_the_order_of_storing_changes_neither_digest_nor_model(database: Database, settings: Settings) -> None:
    ratings = ratings_of(20, 15)
    fill(database, ratings)
    first = take_snapshot(database)
    with database.write() as connection:
        connection.execute(delete(Rating))
        connection.execute(delete(User))
        connection.execute(delete(Item))
    fill(database, ratings[::-1])
    second = take_snapshot(database)
    assert first.user_keys.tolist() != second.user_keys.tolist()
    assert first.digest() == second.digest()
    models = [LocalTrainer(1, settings.kernels_dir).fit(one.ratings, QUICK).model for one in (first, second)]
    assert models[0].digest() == models[1].digest()


def test_another_value_is_another_digest(database: Database) -> None:
    fill(database)
    before = take_snapshot(database).digest()
    fill(database, [NewRating("user-0", "item-0", 3.25)])
    assert take_snapshot(database).digest() != before


def test_the_hold_out_has_about_the_share_asked_for(database: Database) -> None:
    fill(database, ratings_of(100, 80, share=0.9))
    mask = take_snapshot(database).holdout_mask(0.1)
    assert abs(float(mask.mean()) - 0.1) < 0.015


def test_a_larger_share_holds_out_the_same_ratings_and_more(database: Database) -> None:
    fill(database)
    snapshot = take_snapshot(database)
    small, large = snapshot.holdout_mask(0.05), snapshot.holdout_mask(0.3)
    assert large[small].all()
    assert large.sum() > small.sum()
    assert not snapshot.holdout_mask(0.0).any()


def test_a_rating_stays_held_out_when_others_come(database: Database) -> None:
    fill(database, ratings_of(40, 30, seed=1))
    before = take_snapshot(database)
    held_out = _triples(_only(before, before.holdout_mask(0.2)))
    learned = _triples(_only(before, ~before.holdout_mask(0.2)))
    fill(database, [NewRating(f"a-new-user-{n}", f"item-{n % 30}", 3.0) for n in range(50)])
    after = take_snapshot(database)
    held_out_later = _triples(_only(after, after.holdout_mask(0.2)))
    assert held_out <= held_out_later
    assert not learned & held_out_later


def _only(snapshot: TrainingSnapshot, mask: np.ndarray) -> TrainingSnapshot:
    return replace(snapshot, ratings=snapshot.ratings.take(mask))


def test_items_with_categories_get_a_row_where_they_are_asked_for(database: Database) -> None:
    fill(database, [NewRating("ann", "dune", 4.5), NewRating("bob", "alien", 1.0), NewRating("bob", "dune", 1.0)])
    categorise(database, brazil=["Comedy"], zardoz=["Fantasy", "Sci-Fi"], nothing=[], alien=["Horror"])
    snapshot = take_snapshot(database)
    assert len(snapshot.item_ids) == 2
    widened = snapshot.with_unrated_items()
    assert widened.item_ids.ids_of(np.arange(4, dtype=np.int32)) == ["alien", "brazil", "dune", "zardoz"]
    assert _triples(widened) == _triples(snapshot)
    with database.read() as connection:
        keys = keys_of_ids(connection, "item", ["alien", "brazil", "dune", "zardoz"])
    assert widened.item_keys.tolist() == [keys[name] for name in sorted(keys)]
    again = replace(snapshot, categorised=NO_CATEGORIES)
    assert again.with_unrated_items() is again


def test_the_digest_knows_categories_and_not_the_order_in_which_they_came(database: Database) -> None:
    fill(database, [NewRating("ann", "dune", 4.5)])
    before = take_snapshot(database).digest()
    categorise(database, dune=["Sci-Fi", "Epic"])
    described = take_snapshot(database).digest()
    categorise(database, dune=["Epic", "Sci-Fi"])
    assert before != described == take_snapshot(database).digest()


def test_a_stored_snapshot_tells_categories_of_this_moment(database: Database, tmp_path: Path) -> None:
    fill(database)
    take_snapshot(database, tmp_path)
    categorise(database, **{"item-0": ["Drama"], "new": ["War"]})
    stored, anew = take_snapshot(database, tmp_path), take_snapshot(database)
    assert stored.categorised.item_ids == ["item-0", "new"]
    assert stored.digest() == anew.digest()
    assert stored.with_unrated_items().digest() == anew.with_unrated_items().digest()
