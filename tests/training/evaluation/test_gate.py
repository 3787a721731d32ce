import numpy as np
import pytest

from app.engine.losses.catalog import SQUARED
from app.training.evaluation.gate import Comparison, Rejected, refuse_unless_finite
from app.training.evaluation.holdout import HoldoutPredictions
from tests.registry.world import model


def test_a_model_with_a_nan_is_rejected_with_the_name_of_the_array() -> None:
    broken = model()
    broken.item_bias[1] = np.nan
    with pytest.raises(Rejected, match="item_bias"):
        refuse_unless_finite(broken)
    refuse_unless_finite(model())


def _predictions(errors: np.ndarray) -> HoldoutPredictions:
    actual = np.full(errors.size, 3.0, np.float32)
    predicted = (actual + errors).astype(np.float32)
    return HoldoutPredictions(actual, predicted, predicted, predicted)


def _comparison(new: np.ndarray, active: np.ndarray) -> Comparison:
    return Comparison(7, _predictions(new), _predictions(active))


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
        _comparison(new, active).refuse_if_worse(0.02, SQUARED)
    else:
        with pytest.raises(Rejected, match=r"worse than \d.\d+ of the active version 7 on the same 400 ratings"):
            _comparison(new, active).refuse_if_worse(0.02, SQUARED)


def test_a_comparison_without_shared_ratings_has_no_errors() -> None:
    metrics = _comparison(NOISE[:0], NOISE[:0]).metrics()
    assert (metrics.n_ratings, metrics.rmse, metrics.active_rmse) == (0, None, None)
