import dataclasses
import math

import numpy as np
import pytest

from app.engine.data.ratings import Ratings
from app.engine.fold_in.fold_in import FoldIn
from app.engine.fold_in.intervals import INTERVAL_LEVEL, gaussian_interval
from app.settings import RatingScale
from app.training.evaluation.holdout import (
    HoldoutPredictions,
    HoldoutSplit,
    measure,
    predict_holdout,
)
from tests.registry.world import model

SCALE = RatingScale()


def _ratings(*triples: tuple[int, int, float]) -> Ratings:
    users, items, values = (list(column) for column in zip(*triples, strict=True))
    return Ratings.of(users, items, values, n_users=3, n_items=3)


KNOWN = _ratings((0, 0, 4.0), (1, 0, 2.0), (1, 1, 3.0), (2, 2, 5.0))
HOLDOUT = _ratings((0, 1, 4.5), (1, 2, 3.5))


def test_only_users_with_held_out_ratings_are_folded_in() -> None:
    evaluation_set = HoldoutSplit.of(KNOWN, HOLDOUT)
    assert evaluation_set.known.user_rows.tolist() == [0, 1, 1]
    assert evaluation_set.users() == [(slice(0, 1), slice(0, 1)), (slice(1, 2), slice(1, 3))]


def test_predictions_come_from_folding_in_the_known_ratings_and_are_on_the_scale() -> None:
    fold_in = FoldIn(model(mean=2.0))
    predictions = predict_holdout(model(mean=2.0), HoldoutSplit.of(KNOWN, HOLDOUT), SCALE)
    user = fold_in.fold_in([0, 1], [2.0, 3.0])
    expected, _ = fold_in.predict(user, [2])
    assert predictions.predicted[1] == pytest.approx(min(float(expected[0]), 5.0))
    assert (predictions.lower <= predictions.predicted).all()
    assert (predictions.predicted <= predictions.upper).all()
    assert predictions.upper.max() <= SCALE.max


def test_the_intervals_that_are_measured_are_the_ones_that_are_served() -> None:
    scale = RatingScale(min=-99, max=99)
    predictions = predict_holdout(model(mean=2.0), HoldoutSplit.of(KNOWN, HOLDOUT), scale)
    fold_in = FoldIn(model(mean=2.0))
    values, variances = fold_in.predict(fold_in.fold_in([0, 1], [2.0, 3.0]), [2])
    lower, upper = gaussian_interval(values, variances, INTERVAL_LEVEL)
    assert INTERVAL_LEVEL == 0.8
    assert (predictions.lower[1], predictions.upper[1]) == pytest.approx((float(lower[0]), float(upper[0])))
    served = fold_in.with_intervals(fold_in.fold_in([0, 1], [2.0, 3.0]), [2])
    assert (predictions.predicted[1], predictions.lower[1], predictions.upper[1]) == pytest.approx(tuple(served[:, 0]))


def test_an_item_unknown_to_the_model_is_ignored() -> None:
    unknown = np.array([0, 1, -1], np.int32)
    with_it = predict_holdout(
        model(), HoldoutSplit.of(_ratings((1, 0, 2.0), (1, 2, 5.0)), _ratings((1, 1, 3.0))), SCALE, unknown
    )
    assert np.isfinite(with_it.predicted).all()


def test_measures_are_those_of_the_predictions() -> None:
    perfect = dataclasses.replace(model(), item_means=np.array([4.0, 4.5, 3.5], np.float32))
    predictions = HoldoutPredictions(
        HOLDOUT.values, HOLDOUT.values + np.float32(0.5), HOLDOUT.values - 1, HOLDOUT.values + 1
    )
    measured = measure(perfect, HoldoutSplit.of(KNOWN, HOLDOUT), predictions, SCALE)
    assert measured["holdout_rmse"] == measured["holdout_mae"] == 0.5
    assert measured["holdout_rmse_item_means"] == 0.0
    assert measured["holdout_interval_80_coverage"] == 1.0
    assert measured["recall_at_10"] == 1.0  # no more than two items are left for anybody
    assert measured["ndcg_at_10"] == pytest.approx((1 / math.log2(3) + 1) / 2, abs=1e-6)  # second and first place
    assert measured["ndcg_at_10_by_relevance"] == measured["ndcg_at_10"]  # it knows nothing of who rated what
