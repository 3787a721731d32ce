import numpy as np
import pytest

from app.engine.library.slopes import compiled_slopes, loss_functions, resolve_loss
from app.engine.losses.grammar import InvalidLoss


@pytest.mark.parametrize(
    "error", ["squared", "huber", "log_cosh", "where(r > r_hat and r > 1, (r - r_hat)**2, abs(r - r_hat))"]
)
def test_the_slope_of_a_compiled_loop_is_that_of_arrays(error):
    loss = resolve_loss(error, "elastic_net")
    functions, (error_slope, penalty_slope) = loss_functions(loss), compiled_slopes(loss)
    for r, score in [(4.0, 2.5), (0.5, 3.0), (2.0, 1.9)]:
        assert error_slope(r, score) == pytest.approx(float(functions.error_slope(np.array(r), np.array(score))))
    for theta in (-2.0, 0.3):
        assert penalty_slope(theta) == pytest.approx(float(functions.penalty_slope(np.array(theta))))


def test_a_penalty_by_group_is_refused():
    with pytest.raises(InvalidLoss, match="must be in theta"):
        resolve_loss("squared", "p**2 + b_u**2")
