import math

import pytest

from app.engine.losses import catalog
from app.engine.losses.base import Loss
from app.engine.losses.codegen import UnsupportedPenalty, check_penalty, error_slope, error_value

CURVED = Loss(name="curved", error="log(cosh(r - r_hat)) + r**2 * r_hat**3 / 3 + 0.25 * r_hat")


@pytest.mark.parametrize("loss", [*catalog.ALL, CURVED], ids=lambda loss: loss.name)
@pytest.mark.parametrize("r_hat", [-1.5, 0.0, 2.5])
def test_the_derived_slope_agrees_with_a_central_difference(loss, r_hat):
    error = error_value(loss)
    slope = eval(error_slope(loss), {"math": math, "float32": float, "r": 4.0, "r_hat": r_hat})
    rise = error(4.0, r_hat + 1e-5) - error(4.0, r_hat - 1e-5)
    assert slope == pytest.approx(rise / 2e-5, rel=1e-6)


def test_every_constant_of_a_slope_is_a_float32():
    assert error_slope(Loss(name="scaled", error="0.3 * (r - r_hat)**2")).count("float32(") >= 1
    assert error_slope(Loss(name="steep", error="r_hat**4 / 4")) == "((r_hat)*(r_hat)*(r_hat))"


def test_the_squared_loss_pulls_by_the_plain_error():
    assert error_slope(catalog.SQUARED) == "-r + r_hat"


def test_a_penalty_other_than_weight_decay_is_refused():
    with pytest.raises(UnsupportedPenalty, match="only theta"):
        check_penalty(Loss(name="sparse", error="(r - r_hat)**2", penalty="abs(theta)"))
