import dataclasses

import numpy as np
import pytest

from app.engine.arrays import InvalidArray
from app.engine.fold_in.fold_in import FoldIn
from app.engine.retrieval.brute_force import bayesian_means, best_rows, top_n
from tests.engine.worlds import model_of, random_model


def brute_force(scores, n, excluded, candidates):
    hidden = set(excluded.tolist())
    offered = range(scores.size) if candidates is None else set(candidates.tolist())
    left = [row for row in offered if row not in hidden and row >= 0 and not np.isnan(scores[row])]
    return sorted(left, key=lambda row: (-scores[row], row))[:n]


def test_selection_equals_brute_force_in_a_thousand_cases_with_ties_exclusions_and_too_few_items():
    rng = np.random.default_rng(0)
    for _ in range(1000):
        n_items, n = int(rng.integers(0, 60)), int(rng.integers(0, 70))
        scores = rng.integers(-3, 4, n_items).astype(np.float32)  # few values, many ties
        scores[rng.random(n_items) < 0.1] = np.nan
        scores[rng.random(n_items) < 0.05] = -np.inf
        excluded = rng.integers(-1, n_items, int(rng.integers(0, 40))).astype(np.int32)
        candidates = rng.integers(-1, n_items, int(rng.integers(0, 80))).astype(np.int32)
        only = candidates if rng.random() < 0.5 else None
        rows, values = best_rows(scores, n, excluded=excluded, candidates=only)
        assert rows.tolist() == brute_force(scores, n, excluded, only)
        assert np.array_equal(values, scores[rows])


def test_a_users_top_items_are_those_with_the_highest_predictions():
    model = random_model(n_items=300)
    fold_in = FoldIn(model)
    user = fold_in.fold_in([3, 5, 8], [5.0, 1.0, 4.0])
    predicted, _ = fold_in.predict(user, np.arange(300))
    rows, values = top_n(model, user, 10, excluded=np.array([3, 5, 8], np.int32))
    expected = [row for row in np.argsort(-predicted, kind="stable") if row not in (3, 5, 8)][:10]
    assert rows.tolist() == expected
    assert values == pytest.approx(predicted[rows], abs=1e-5)


def test_items_with_equal_vectors_come_in_the_order_of_their_rows():
    model = model_of(np.tile([[0.5, -0.25, 0.125]], (50, 1)))
    user = FoldIn(model).fold_in([0], [5.0])
    assert top_n(model, user, 5, excluded=np.array([0, 2], np.int32))[0].tolist() == [1, 3, 4, 5, 6]


def test_fewer_come_back_when_fewer_are_left_and_none_when_none_are():
    model = random_model(n_items=4)
    user = FoldIn(model).fold_in([], [])
    assert top_n(model, user, 10, excluded=np.array([1], np.int32))[0].size == 3
    assert top_n(model, user, 10, excluded=np.arange(4, dtype=np.int32))[0].size == 0
    assert top_n(model, user, 0)[0].size == 0
    assert top_n(model, user, 10, candidates=np.array([-1], np.int32))[0].size == 0


def test_a_score_that_is_not_a_number_never_appears():
    model = random_model(n_items=5)
    broken = model.item_bias.copy()
    broken[2] = np.nan
    rows, _ = top_n(dataclasses.replace(model, item_bias=broken), FoldIn(model).fold_in([], []), 5)
    assert sorted(rows.tolist()) == [0, 1, 3, 4]


@pytest.mark.parametrize(("keyword", "row"), [("excluded", 5), ("candidates", 5), ("candidates", -2)])
def test_rows_outside_the_model_are_refused(keyword, row):
    with pytest.raises(InvalidArray, match=f"{keyword} holds row {row}"):
        best_rows(np.zeros(5, np.float32), 1, **{keyword: np.array([row], np.int32)})


def test_one_enthusiastic_vote_does_not_make_an_item_popular():
    model = model_of(
        np.zeros((4, 2)), item_counts=[1, 100, 50, 0], item_means=[5.0, 4.5, 2.0, 3.0], popularity_shrinkage=5.0
    )
    rows, means = best_rows(bayesian_means(model), 10)
    assert rows.tolist() == [1, 0, 2]  # and the item that nobody rated is not popular
    assert means == pytest.approx([(15 + 450) / 105, (15 + 5) / 6, (15 + 100) / 55])
