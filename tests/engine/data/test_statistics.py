from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from app.engine.data.ratings import Ratings
from app.engine.data.statistics import mean_and_variance, nonzero_spread, rating_statistics


def statistics_of(ratings, n_threads=1):
    with ThreadPoolExecutor(n_threads) as pool:
        return rating_statistics(ratings, pool)


def test_users_and_items_are_statistics_and_the_ratings_of_items_summed():
    statistics = statistics_of(Ratings.of([1, 1, 3], [0, 2, 0], [1.0, 4.0, 2.0], n_users=5, n_items=3))
    assert statistics.user_starts.tolist() == [0, 0, 2, 2, 3, 3]
    assert statistics.user_counts.tolist() == [0, 2, 0, 1, 0]
    assert statistics.item_counts.tolist() == [2, 0, 1]
    assert statistics.item_sums.tolist() == [3.0, 0.0, 4.0]
    assert (statistics.mean, statistics.variance) == pytest.approx((7 / 3, 14 / 9))


def test_users_whose_ratings_lie_in_several_parts_are_found_where_they_start():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 20_000, 9)
    users = np.repeat(np.arange(9, dtype=np.int32), counts)
    ratings = Ratings(users, np.zeros_like(users), np.ones(users.size, np.float32), 9, 1)
    assert statistics_of(ratings, 3).user_starts.tolist() == [0, *np.cumsum(counts).tolist()]


def test_no_ratings_are_statistics_as_none():
    statistics = statistics_of(Ratings.of([], [], [], n_users=2, n_items=1))
    assert statistics.user_starts.tolist() == [0, 0, 0]
    assert (statistics.mean, statistics.variance) == (0.0, 0.0)


def test_item_means_are_plain_and_the_overall_mean_for_items_without_ratings():
    ratings = Ratings.of([0, 1, 0], [0, 0, 2], [1, 4, 4], n_users=2, n_items=3)
    with ThreadPoolExecutor(1) as pool:
        assert rating_statistics(ratings, pool).item_means.tolist() == [2.5, 3.0, 4.0]


@pytest.mark.parametrize(("values", "expected"), [([1, 3], 1.0), ([4, 4], 0.2), ([0, 0], 1.0), ([1e-7, 3e-7], 1e-7)])
def test_ratings_that_are_all_equal_get_some_spread(values, expected):
    assert nonzero_spread(*mean_and_variance(np.array(values, np.float32))) == pytest.approx(expected)
