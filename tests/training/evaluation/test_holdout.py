import dataclasses
import math

import numpy as np
import pytest

from app.engine.data.ratings import Ratings
from app.engine.fold_in.fold_in import FoldIn
from app.engine.fold_in.intervals import INTERVAL_LEVEL, gaussian_interval
from app.recommendations import dispatch
from app.settings import RatingScale
from app.training.evaluation.holdout import (
    Questions,
    Rejected,
    Sheet,
    answer,
    evenly,
    measure,
    refuse_if_worse,
    refuse_unless_finite,
)
from tests.registry.world import model

SCALE = RatingScale()


def _ratings(*triples: tuple[int, int, float]) -> Ratings:
    users, items, values = (list(column) for column in zip(*triples, strict=True))
    return Ratings.of(users, items, values, n_users=3, n_items=3)


KNOWN = _ratings((0, 0, 4.0), (1, 0, 2.0), (1, 1, 3.0), (2, 2, 5.0))
ASKED = _ratings((0, 1, 4.5), (1, 2, 3.5))


def test_only_users_who_are_asked_something_are_folded_in() -> None:
    questions = Questions.of(KNOWN, ASKED)
    assert questions.known.user_rows.tolist() == [0, 1, 1]
    assert questions.users() == [(slice(0, 1), slice(0, 1)), (slice(1, 2), slice(1, 3))]


def test_answers_are_those_of_a_fold_in_from_the_known_ratings_on_the_scale() -> None:
    fold_in = FoldIn(model(mean=2.0))
    sheet = answer(model(mean=2.0), Questions.of(KNOWN, ASKED), SCALE)
    user = fold_in.fold_in([0, 1], [2.0, 3.0])
    expected, _ = fold_in.predict(user, [2])
    assert sheet.predicted[1] == pytest.approx(min(float(expected[0]), 5.0))
    assert (sheet.lower <= sheet.predicted).all()
    assert (sheet.predicted <= sheet.upper).all()
    assert sheet.upper.max() <= SCALE.max


def test_the_intervals_that_are_measured_are_the_ones_that_are_served() -> None:
    scale = RatingScale(min=-99, max=99)
    sheet = answer(model(mean=2.0), Questions.of(KNOWN, ASKED), scale)
    fold_in = FoldIn(model(mean=2.0))
    values, variances = fold_in.predict(fold_in.fold_in([0, 1], [2.0, 3.0]), [2])
    lower, upper = gaussian_interval(values, variances, INTERVAL_LEVEL)
    assert INTERVAL_LEVEL == dispatch.INTERVAL_LEVEL == 0.8
    assert (sheet.lower[1], sheet.upper[1]) == pytest.approx((float(lower[0]), float(upper[0])))


def test_an_item_that_the_model_does_not_know_is_passed_over() -> None:
    unknown = np.array([0, 1, -1], np.int32)
    with_it = answer(model(), Questions.of(_ratings((1, 0, 2.0), (1, 2, 5.0)), _ratings((1, 1, 3.0))), SCALE, unknown)
    assert np.isfinite(with_it.predicted).all()


def test_measures_are_those_of_the_answers() -> None:
    perfect = dataclasses.replace(model(), item_means=np.array([4.0, 4.5, 3.5], np.float32))
    sheet = Sheet(ASKED.values, ASKED.values + np.float32(0.5), ASKED.values - 1, ASKED.values + 1)
    measured = measure(perfect, Questions.of(KNOWN, ASKED), sheet, SCALE)
    assert measured["holdout_rmse"] == measured["holdout_mae"] == 0.5
    assert measured["holdout_rmse_item_means"] == 0.0
    assert measured["holdout_interval_80_coverage"] == 1.0
    assert measured["recall_at_10"] == 1.0  # no more than two items are left for anybody
    assert measured["ndcg_at_10"] == pytest.approx((1 / math.log2(3) + 1) / 2, abs=1e-6)  # second and first place
    assert measured["ndcg_at_10_by_relevance"] == measured["ndcg_at_10"]  # it knows nothing of who rated what


def test_a_number_that_is_none_is_rejected_by_name() -> None:
    broken = model()
    broken.item_bias[1] = np.nan
    with pytest.raises(Rejected, match="item_bias"):
        refuse_unless_finite(broken)
    refuse_unless_finite(model())


def _sheet(errors: np.ndarray) -> Sheet:
    actual = np.full(errors.size, 3.0, np.float32)
    predicted = (actual + errors).astype(np.float32)
    return Sheet(actual, predicted, predicted, predicted)


NOISE = np.random.default_rng(0).normal(size=400)


@pytest.mark.parametrize(
    ("new", "active", "passes"),
    [
        pytest.param(NOISE, NOISE, True, id="equal"),
        pytest.param(0.5 * NOISE, NOISE, True, id="better"),
        pytest.param(1.01 * NOISE, NOISE, True, id="worse within the margin"),
        pytest.param(1.2 * NOISE, NOISE, False, id="worse beyond the margin"),
        pytest.param(1.2 * NOISE[:3], NOISE[::-1][:3], True, id="worse on too few ratings to tell"),
        pytest.param(NOISE[:0], NOISE[:0], True, id="nothing to compare"),
    ],
)
def test_a_fit_passes_unless_it_is_clearly_worse(new: np.ndarray, active: np.ndarray, passes: bool) -> None:
    if passes:
        refuse_if_worse(_sheet(new), _sheet(active), 7, margin=0.02)
    else:
        with pytest.raises(Rejected, match=r"worse than \d.\d+ of the active version 7 on the same 400 ratings"):
            refuse_if_worse(_sheet(new), _sheet(active), 7, margin=0.02)


def test_some_rows_stand_for_all() -> None:
    assert evenly(np.arange(100, dtype=np.int32), 3).tolist() == [0, 49, 99]
    assert evenly(np.arange(3, dtype=np.int32), 3).tolist() == [0, 1, 2]
