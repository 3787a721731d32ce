import math

import numpy as np
import pytest

from app.engine.arrays import InvalidArray
from app.engine.evaluation import graded_ndcg_at, interval_coverage, mae, ndcg_at, recall_at, rmse, split_holdout
from tests.engine.worlds import planted


def rows(*values):
    return np.array(values, np.int32)


def test_errors_of_three_predictions_by_hand():
    assert rmse([3, 4, 5], [3, 2, 4]) == pytest.approx(math.sqrt(5 / 3))
    assert mae([3, 4, 5], [3, 2, 4]) == pytest.approx(1.0)


def test_the_error_of_nothing_is_not_a_number():
    assert math.isnan(rmse([], []))
    assert math.isnan(mae([], []))


def test_predictions_of_another_shape_are_refused():
    with pytest.raises(InvalidArray, match="shape"):
        rmse([1, 2], [1])


def test_recall_counts_hits_among_the_reachable():
    assert recall_at(rows(1, 2, 3, 4), rows(2, 9, 4), 3) == pytest.approx(1 / 3)
    assert recall_at(rows(1, 2, 3, 4), rows(2, 9, 4), 1) == 0.0
    assert recall_at(rows(7, 8), rows(7, 8, 9, 10), 2) == 1.0  # only two could be there
    assert math.isnan(recall_at(rows(1), rows(), 5))


def test_ndcg_discounts_hits_by_their_place():
    # hits at places 2 and 4; the best order has them at 1 and 2
    expected = (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3))
    assert ndcg_at(rows(5, 1, 6, 2), rows(1, 2), 4) == pytest.approx(expected)
    assert ndcg_at(rows(1, 2), rows(1, 2), 10) == pytest.approx(1.0)
    assert ndcg_at(rows(3), rows(1), 10) == 0.0
    assert math.isnan(ndcg_at(rows(1), rows(), 5))


def test_coverage_is_the_share_inside_with_the_ends():
    actual = np.array([1.0, 2.0, 3.0, 9.0], np.float32)
    lower, upper = np.array([1, 1, 2, 4], np.float32), np.array([1, 3, 2.5, 14], np.float32)
    assert interval_coverage(actual, lower, upper) == 0.75
    assert math.isnan(interval_coverage(actual[:0], actual[:0], actual[:0]))


def test_a_split_parts_the_ratings_and_repeats_with_its_seed():
    ratings = planted().ratings
    train, holdout = split_holdout(ratings, 0.05, seed=1)
    assert (len(train), len(holdout)) == (19_000, 1_000)
    keys = [part.user_rows.astype(np.int64) * 1000 + part.item_rows for part in (train, holdout)]
    assert np.intersect1d(*keys).size == 0
    again = split_holdout(ratings, 0.05, seed=1)[1]
    other = split_holdout(ratings, 0.05, seed=2)[1]
    assert np.array_equal(holdout.item_rows, again.item_rows)
    assert not np.array_equal(holdout.item_rows, other.item_rows)


def test_a_handful_of_ratings_is_all_for_training():
    ten = planted().ratings.take(np.arange(10))
    train, holdout = split_holdout(ten, 0.05, seed=0)
    assert (len(train), len(holdout)) == (10, 0)


def test_holding_out_everything_is_refused():
    with pytest.raises(InvalidArray, match="fraction"):
        split_holdout(planted().ratings, 1.0, seed=0)


def test_the_order_of_rated_items_is_judged_by_their_ratings():
    assert graded_ndcg_at([3, 2, 1], [5, 4, 3], 10) == 1.0
    worst = (0 + 1 / np.log2(3) + 2 / 2) / (2 + 1 / np.log2(3) + 0)  # gains 0, 1, 2 instead of 2, 1, 0
    assert graded_ndcg_at([1, 2, 3], [5, 4, 3], 10) == pytest.approx(worst)
    assert graded_ndcg_at([1, 2, 3], [5, 4, 3], 1) == 0.0
    assert np.isnan(graded_ndcg_at([1, 2], [4, 4], 10))
