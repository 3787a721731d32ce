from dataclasses import replace

import numpy as np

from app.db.engine import Database
from app.ratings.models import NewRating
from app.training.snapshot.categories import NO_CATEGORIES, Categorised, read_categories
from app.training.snapshot.take import take_snapshot
from tests.training.world import categorise, fill


def test_categories_are_read_by_outside_id_each_once_and_in_order(database: Database) -> None:
    categorise(database, zardoz=["Sci-Fi", "Fantasy"], nothing=[], brazil=["Comedy"])
    with database.read() as connection:
        categorised = read_categories(connection)
    assert categorised.item_ids == ["brazil", "zardoz"]
    assert categorised.categories == [["Comedy"], ["Fantasy", "Sci-Fi"]]


def test_only_categories_of_several_rated_items_become_features() -> None:
    names = [["Drama"]] * 5 + [["Rare"]] * 4 + [["Unrated"]] * 5
    categorised = Categorised(np.arange(14), [f"film-{n}" for n in range(14)], names)
    features = categorised.features(np.arange(14, dtype=np.int32), np.array([1] * 9 + [0] * 5, np.int32))
    assert features is not None
    assert features.tolist() == [[1.0, 0.0]] * 5 + [[0.0, 0.0]] * 9
    assert NO_CATEGORIES.features(np.zeros(0, np.int32), np.ones(3, np.int32)) is None


def test_the_features_of_items_are_their_common_categories_and_having_none(database: Database) -> None:
    given = [NewRating("ann", f"film-{number}", 3.0) for number in range(12)]
    fill(database, given)
    common = {f"film-{number}": ["Drama"] if number < 6 else ["Drama", "War"] for number in range(11)}
    categorise(database, **common | {"new": ["War", "Rare"]})
    snapshot = take_snapshot(database).with_unrated_items()
    features = snapshot.item_features()
    assert features is not None
    by_id = dict(zip(snapshot.item_ids.ids_of(np.arange(13, dtype=np.int32)), features.tolist(), strict=True))
    assert by_id["film-0"] == [1.0, 0.0, 0.0]  # drama, war, none: one film is rare
    assert by_id["film-10"] == [1.0, 1.0, 0.0]
    assert by_id["film-11"] == [0.0, 0.0, 1.0]
    assert by_id["new"] == [0.0, 1.0, 0.0]
    assert replace(snapshot, categorised=NO_CATEGORIES).item_features() is None
