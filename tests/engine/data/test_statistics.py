from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from app.engine.data.ratings import Ratings
from app.engine.data.statistics import tally


def tallied(ratings, n_threads=1):
    with ThreadPoolExecutor(n_threads) as pool:
        return tally(ratings, pool)


def test_users_and_items_are_counted_and_the_ratings_of_items_summed():
    counted = tallied(Ratings.of([1, 1, 3], [0, 2, 0], [1.0, 4.0, 2.0], n_users=5, n_items=3))
    assert counted.user_starts.tolist() == [0, 0, 2, 2, 3, 3]
    assert counted.user_counts.tolist() == [0, 2, 0, 1, 0]
    assert counted.item_counts.tolist() == [2, 0, 1]
    assert counted.item_sums.tolist() == [3.0, 0.0, 4.0]
    assert (counted.mean, counted.variance) == pytest.approx((7 / 3, 14 / 9))


def test_users_whose_ratings_lie_in_several_parts_are_found_where_they_start():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 20_000, 9)
    users = np.repeat(np.arange(9, dtype=np.int32), counts)
    ratings = Ratings(users, np.zeros_like(users), np.ones(users.size, np.float32), 9, 1)
    assert tallied(ratings, 3).user_starts.tolist() == [0, *np.cumsum(counts).tolist()]


def test_no_ratings_are_counted_as_none():
    counted = tallied(Ratings.of([], [], [], n_users=2, n_items=1))
    assert counted.user_starts.tolist() == [0, 0, 0]
    assert (counted.mean, counted.variance) == (0.0, 0.0)
