import numpy as np
import pytest

from app.engine.losses.evaluate import first_not_finite, huber, log_cosh, sigmoid, softplus, value_of
from app.engine.losses.grammar import parse


def test_an_expression_has_the_value_of_its_formula():
    tree = parse("where(r > r_hat, 2 * r, abs(r_hat)) + sqrt(r)", ("r", "r_hat"))
    assert value_of(tree, {"r": [4.0, 1.0], "r_hat": [1.0, -9.0]}).tolist() == [10.0, 3.0]
    assert value_of(tree, {"r": [1.0], "r_hat": [3.0]}).tolist() == [4.0]


def test_the_innermost_operation_without_a_value_is_named_with_its_point():
    tree = parse("r + log(r - 2)", ("r",))
    problem = first_not_finite(tree, {"r": np.array([3.0, 2.0])})
    assert problem is not None
    assert (problem.node.operation, problem.point) == ("log", 1)
    assert first_not_finite(tree, {"r": np.array([3.0])}) is None


def test_a_branch_that_is_not_taken_may_lack_a_value():
    assert first_not_finite(parse("where(r > 0, log(r), 0)", ("r",)), {"r": np.array([-1.0, 1.0])}) is None


@pytest.mark.parametrize(
    ("function", "u", "expected"), [(sigmoid, -800.0, 0.0), (softplus, 800.0, 800.0), (log_cosh, 1e3, 1e3 - np.log(2))]
)
def test_functions_do_not_overflow_far_from_zero(function, u, expected):
    assert function(u) == pytest.approx(expected)


def test_huber_is_quadratic_within_delta_and_linear_beyond():
    assert huber(np.array([0.5, 3.0]), 1.0).tolist() == [0.125, 2.5]
