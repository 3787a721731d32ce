"""What the statements of a kernel look like."""

import numpy as np
import pytest

from app.engine.losses import kernel_functions
from app.engine.losses.catalog import ENTRIES, SQUARED
from app.engine.losses.codegen import penalty_statements, slope_statements
from app.engine.losses.declare import declare
from app.engine.losses.grammar import InvalidLoss

CATALOG = [declare(entry.name, rating_range=(0.0, 6.0)) for entry in ENTRIES]


def slope_of_statements(loss, r, score):
    """The statements as a kernel runs them, in float32; without Numba, each function by what it says."""
    names = {name: getattr(kernel_functions, name).py_func for name in FUNCTIONS_WITHOUT_BITS}
    numpy_instead = {"tanh": np.tanh, "exponential": np.exp, "sigmoid": lambda u: 1 / (1 + np.exp(-u))}
    scope = {**names, **numpy_instead, "float32": np.float32, "r": r, "r_hat_raw": score}
    exec(slope_statements(loss), scope)
    return scope["r_hat"], scope["slope"]


FUNCTIONS_WITHOUT_BITS = ("quotient", "square")


def test_the_squared_loss_pulls_by_the_plain_error():
    assert slope_statements(SQUARED) == "r_hat = r_hat_raw\nslope = (r_hat_raw - r)"


def test_the_logarithm_of_a_hyperbolic_cosine_pulls_by_a_hyperbolic_tangent():
    slope = slope_statements(declare("log(cosh(r - r_hat))"))
    assert "tanh(" in slope
    assert "cosh" not in slope


@pytest.mark.parametrize("text", ["log(1 + exp(r_hat)) - r * r_hat", "log1p(exp(r_hat)) - r * r_hat"])
def test_a_softplus_is_recognised_as_it_is_written(text):
    slope = slope_statements(declare(text))
    assert "sigmoid(" in slope
    assert "exponential" not in slope


def test_the_logistic_loss_pulls_by_the_difference_of_probabilities():
    loss = declare("logistic", rating_range=(0, 1))
    _, slope = slope_of_statements(loss, np.float32(1), np.float32(-30))
    assert slope == pytest.approx(-1)
    _, slope = slope_of_statements(loss, np.float32(0.25), np.float32(0))
    assert slope == pytest.approx(0.25)


def test_every_constant_of_a_slope_is_a_float32():
    statements = slope_statements(declare("0.3 * (r - r_hat)**2"))
    assert "float32(0.6)" in statements
    assert slope_statements(declare("r_hat**4 / 4")).endswith("slope = (square(r_hat_raw)*r_hat_raw)")


def test_a_penalty_may_differ_between_the_groups_of_parameters():
    loss = declare(penalty="abs(p) + q**2 + b_u**2 / 2")
    of_entries, of_biases = penalty_statements(loss)
    assert of_entries == "slope_of_p = sign(p)\nslope_of_q = (float32(2.0)*q)"
    assert of_biases == "slope_of_b_u = b_u\nslope_of_b_i = float32(0.0)"


def test_a_penalty_that_mixes_biases_with_vectors_is_refused():
    with pytest.raises(InvalidLoss, match="mixes biases with vectors"):
        penalty_statements(declare(penalty="p * b_u"))


def test_powers_of_powers_have_an_end():
    with pytest.raises(InvalidLoss, match="a power of a power"):
        slope_statements(declare("(((r - r_hat)**16)**16)**16"))
