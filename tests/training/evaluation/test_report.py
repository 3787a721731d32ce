import json
import math

import numpy as np
import pytest

from app.engine.data.ratings import Ratings
from app.engine.factors import FactorModel
from app.settings import RatingScale
from app.training.evaluation.holdout import HoldoutPredictions, HoldoutSplit
from app.training.evaluation.report import report
from tests.registry.world import model

SCALE = RatingScale()
KNOWN = Ratings.of(
    [0, 1, 1, 1, 1, 2, 2, 2],
    [0, 0, 1, 2, 3, 0, 1, 2],
    [4.0, 2.0, 3.0, 2.0, 1.0, 5.0, 4.0, 3.0],
    n_users=3,
    n_items=5,
)
HOLDOUT = Ratings.of([0, 1, 2], [4, 4, 3], [4.5, 3.0, 1.0], n_users=3, n_items=5)


def _model() -> FactorModel:
    """Of the known ratings: items with 3, 2, 2, 1 and 0 of them."""
    answered = model(n_users=3, n_items=5)
    answered.item_counts[:] = [3, 2, 2, 1, 0]
    answered.item_means[:] = [11 / 3, 3.5, 2.5, 1.0, 3.0]
    return answered


def _predictions() -> HoldoutPredictions:
    """Errors of 0.5, 0 and 2; the last rating is outside its interval."""
    predicted = np.array([4.0, 3.0, 3.0], np.float32)
    return HoldoutPredictions(HOLDOUT.values, predicted, predicted - np.float32(1.0), predicted + np.float32(1.0))


def _report(predictions: HoldoutPredictions | None = None) -> dict:
    return report(_model(), HoldoutSplit.of(KNOWN, HOLDOUT), predictions or _predictions(), SCALE).model_dump(
        by_alias=True
    )


def test_errors_and_intervals_are_reported_by_number_of_ratings_of_the_user() -> None:
    few, some = _report()["by_ratings_of_user"]
    assert few == {"from": 1, "to": 2, "n": 1, "rmse": 0.5, "mae": 0.5, "coverage": 1.0, "width": 2.0}
    assert some == {
        "from": 3, "to": 9, "n": 2, "rmse": round(math.sqrt(2), 6), "mae": 1.0, "coverage": 0.5, "width": 2.0
    }  # fmt: skip


def test_unrated_items_are_a_bucket_of_their_own() -> None:
    never, few = _report()["by_ratings_of_item"]
    assert (never["from"], never["to"], never["n"], never["coverage"]) == (0, 0, 2, 1.0)
    assert (few["from"], few["to"], few["n"], few["coverage"]) == (1, 2, 1, 0.0)


def test_every_prediction_is_in_one_bucket_of_users_and_one_of_items() -> None:
    many = model(n_users=1, n_items=1000)
    many.item_counts[:] = np.arange(1000)
    rows = np.arange(1000)
    asked = Ratings.of(np.zeros(1000, int), rows, np.full(1000, 3.0), n_users=1, n_items=1000)
    known = asked.take(np.zeros(1000, bool))
    predictions = HoldoutPredictions(asked.values, asked.values, asked.values, asked.values)
    reported = report(many, HoldoutSplit.of(known, asked), predictions, SCALE).model_dump(by_alias=True)
    assert [bucket["n"] for bucket in reported["by_ratings_of_user"]] == [1000]
    items = reported["by_ratings_of_item"]
    assert [(bucket["from"], bucket["n"]) for bucket in items] == [
        (0, 1), (1, 2), (3, 7), (10, 20), (30, 70), (100, 200), (300, 700)
    ]  # fmt: skip
    assert items[-1]["to"] is None


def test_the_baselines_are_the_mean_and_damped_means_of_items_and_users() -> None:
    baselines = _report()["baselines"]
    assert baselines["overall_mean"]["mae"] == pytest.approx((1.5 + 0 + 2.0) / 3)  # the mean of all is 3
    of_item = {0: 2 / 8, 1: 1 / 7, 2: -1 / 7, 3: -2 / 6, 4: 0.0}
    residuals = {0: [1 - of_item[0]], 1: [-1 - of_item[0], 0 - of_item[1], -1 - of_item[2], -2 - of_item[3]]}
    residuals[2] = [2 - of_item[0], 1 - of_item[1], 0 - of_item[2]]
    of_user = {user: sum(rest) / (len(rest) + 5) for user, rest in residuals.items()}
    errors = [3 + of_item[i] + of_user[u] - r for u, i, r in ((0, 4, 4.5), (1, 4, 3.0), (2, 3, 1.0))]
    assert baselines["biases"]["rmse"] == pytest.approx(math.sqrt(sum(e * e for e in errors) / 3), abs=1e-6)


def test_the_popularity_baseline_ranks_unrated_items_by_number_of_ratings() -> None:
    """Users 0 and 1 liked item 4, the least rated: it comes fourth for the one and first for the other."""
    reported = _report()["baselines"]["popularity"]
    assert reported["recall_at_10"] == 1.0
    assert reported["ndcg_at_10"] == pytest.approx((1 / math.log2(5) + 1) / 2, abs=1e-6)


def test_a_report_is_json_even_if_no_user_has_a_relevant_item() -> None:
    evaluation_set = HoldoutSplit.of(KNOWN, HOLDOUT.take(np.array([False, False, True])))
    one = np.ones(1, np.float32)
    reported = report(_model(), evaluation_set, HoldoutPredictions(one, one, one, one), SCALE).model_dump(
        exclude_unset=True
    )
    assert reported["baselines"]["popularity"] == {}
    assert json.loads(json.dumps(reported, allow_nan=False)) == reported
