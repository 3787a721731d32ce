"""The sample world: the same every time, a believable catalogue, and preferences that a model recovers."""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from app.demo.world import World, sample_world, write_items_csv, write_ratings_csv
from app.engine.data.ratings import Ratings
from app.engine.factors import FactorModel
from app.engine.hyperparameters import Hyperparameters
from app.engine.sgd.local import LocalTrainer


@pytest.fixture(scope="module")
def world() -> World:
    return sample_world()


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    assert _digest(sample_world(seed=3), tmp_path / "a") == _digest(sample_world(seed=3), tmp_path / "b")


def test_another_seed_writes_another_world(tmp_path: Path) -> None:
    assert _digest(sample_world(seed=3), tmp_path / "a") != _digest(sample_world(seed=4), tmp_path / "b")


@pytest.mark.parametrize("seed", range(5))
def test_no_title_id_user_or_pair_comes_twice(seed: int) -> None:
    world = sample_world(seed)
    ratings = world.ratings
    assert len({film.title for film in world.items}) == len({film.item_id for film in world.items}) == 600
    assert len(set(ratings.user_ids)) == 800
    assert (
        len({*zip(ratings.user_rows.tolist(), ratings.item_rows.tolist(), strict=True)})
        == len(ratings.values)
        == 60_000
    )


def test_no_word_of_a_title_wears_out(world: World) -> None:
    words = Counter(word for film in world.items for word in set(film.title.split()) if len(word) > 4)
    assert words.most_common(1)[0][1] < len(world.items) / 20


def test_titles_read_as_english(world: World) -> None:
    titles = " | ".join(film.title for film in world.items)
    assert "{" not in titles
    assert "  " not in titles
    assert not {" A A", " A E", " A I", " A O", " A U"} & {titles[n : n + 4] for n in range(len(titles))}


def test_ratings_use_the_whole_half_star_scale_and_lean_to_the_upper_middle(world: World) -> None:
    values = world.ratings.values
    assert sorted(set(values.tolist())) == [0.5 * step for step in range(1, 11)]
    assert 3.3 < values.mean() < 3.9
    assert np.count_nonzero(values == 5) < 0.2 * len(values)


def test_a_few_films_are_rated_much_more_than_most(world: World) -> None:
    counts = np.sort(np.bincount(world.ratings.item_rows, minlength=len(world.items)))
    assert counts[0] > 0
    assert counts[-30:].mean() > 4 * np.median(counts)


def test_nobody_rates_a_film_before_it_is_out_nor_after_the_last_day(world: World) -> None:
    years = np.array([film.year for film in world.items])[world.ratings.item_rows]
    moments = world.ratings.timestamps.astype("datetime64[s]")
    assert (moments >= (years - 1970).astype("datetime64[Y]")).all()
    assert moments.max() < np.datetime64("2025-07-01")


def test_the_files_hold_the_world(world: World, tmp_path: Path) -> None:
    write_ratings_csv(world, tmp_path / "ratings.csv")
    write_items_csv(world, tmp_path / "movies.csv")
    ratings, movies = _rows(tmp_path / "ratings.csv"), _rows(tmp_path / "movies.csv")
    first = world.items[world.ratings.item_rows[0]]
    assert list(ratings[0]) == ["userId", "movieId", "rating", "timestamp"]
    assert (ratings[0]["movieId"], float(ratings[0]["rating"])) == (first.item_id, world.ratings.values[0])
    assert [row["movieId"] for row in movies] == [film.item_id for film in world.items]
    assert movies[0]["title"] == f"{world.items[0].title} ({world.items[0].year})"
    assert movies[0]["genres"].split("|") == list(world.items[0].categories)


def test_a_smaller_world_can_be_made() -> None:
    world = sample_world(n_users=40, n_items=60, n_ratings=800)
    assert (len(world.items), len(world.ratings.values), len(world.ratings.user_ids)) == (60, 800, 40)


def test_training_recovers_the_planted_preferences(world: World, tmp_path: Path) -> None:
    ratings = _arrays(world)
    is_held_out = np.random.default_rng(0).random(len(ratings)) < 0.1
    learned, held_out = ratings.take(~is_held_out), ratings.take(is_held_out)
    fit = LocalTrainer(1, tmp_path).fit(learned, Hyperparameters(), holdout=held_out)
    assert fit.best.holdout_rmse is not None
    assert fit.best.holdout_rmse < 0.92 * _rmse_of_biases(learned, held_out)
    assert _share_of_sci_fi_in_the_top_ten_of_its_fan(world, fit.model) >= 0.6


def _share_of_sci_fi_in_the_top_ten_of_its_fan(world: World, model: FactorModel) -> float:
    """The fan rated at least ten sci-fi films and puts them furthest above the others; rated films are left out."""
    ratings = world.ratings
    is_sci_fi = np.array([film.categories[0] == "Sci-Fi" for film in world.items])
    lifts = {}
    for user_row in range(len(ratings.user_ids)):
        mine = ratings.user_rows == user_row
        in_genre, values = is_sci_fi[ratings.item_rows[mine]], ratings.values[mine]
        if in_genre.sum() >= 10 and (~in_genre).sum() >= 10:
            lifts[user_row] = values[in_genre].mean() - values[~in_genre].mean()
    fan = max(lifts, key=lambda user_row: lifts[user_row])
    all_items = np.arange(len(world.items), dtype=np.int32)
    scores = model.predict(np.full(len(all_items), fan, np.int32), all_items)
    scores[ratings.item_rows[ratings.user_rows == fan]] = -np.inf
    return float(is_sci_fi[np.argsort(-scores)[:10]].mean())


def _rmse_of_biases(learned: Ratings, held_out: Ratings) -> float:
    """Hold-out error of mean + user bias + item bias, both shrunk a little, by alternating means."""
    mean = learned.values.mean()
    user_bias, item_bias = np.zeros(learned.n_users), np.zeros(learned.n_items)
    for _ in range(20):
        rest = learned.values - mean - user_bias[learned.user_rows]
        item_bias = np.bincount(learned.item_rows, rest, learned.n_items) / (
            _counts(learned.item_rows, learned.n_items) + 3
        )
        rest = learned.values - mean - item_bias[learned.item_rows]
        user_bias = np.bincount(learned.user_rows, rest, learned.n_users) / (
            _counts(learned.user_rows, learned.n_users) + 3
        )
    errors = held_out.values - mean - user_bias[held_out.user_rows] - item_bias[held_out.item_rows]
    return float(np.sqrt(np.mean(errors**2)))


def _counts(rows: np.ndarray, n_rows: int) -> np.ndarray:
    return np.bincount(rows, minlength=n_rows)


def _arrays(world: World) -> Ratings:
    ratings = world.ratings
    return Ratings.of(
        ratings.user_rows.astype(np.int32),
        ratings.item_rows.astype(np.int32),
        ratings.values.astype(np.float32),
        n_users=len(ratings.user_ids),
        n_items=len(world.items),
    )


def _digest(world: World, folder: Path) -> str:
    folder.mkdir()
    write_ratings_csv(world, folder / "ratings.csv")
    write_items_csv(world, folder / "movies.csv")
    written = (folder / "ratings.csv").read_bytes() + (folder / "movies.csv").read_bytes()
    return hashlib.sha256(written).hexdigest()


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
