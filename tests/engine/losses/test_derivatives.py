"""Derived slopes against central differences."""

import numpy as np
import pytest

from app.engine.losses.catalog import ENTRIES
from app.engine.losses.declare import declare, error_tree
from app.engine.losses.derivatives import decay_of, derivatives_of
from app.engine.losses.evaluate import value_of

CATALOG = [declare(entry.name, rating_range=(0.0, 6.0)) for entry in ENTRIES]


def errors(loss, r, score):
    return value_of(error_tree(loss), {"r": r, "r_hat": loss.rating_of(score)})


def assert_slope_is_that_of_the_error(loss, r, score):
    """To 1e-5: central differences with Richardson's extrapolation, where no kink lies between."""
    h = 1e-3 * np.maximum(np.abs(score), 0.1)
    wide = (errors(loss, r, score + h) - errors(loss, r, score - h)) / (2 * h)
    narrow = (errors(loss, r, score + h / 2) - errors(loss, r, score - h / 2)) / h
    expected = (4 * narrow - wide) / 3
    _, slopes, curvatures = derivatives_of(loss)(r, score)
    smooth = np.abs(narrow - wide) < 1e-5 * np.maximum(np.abs(narrow), 1e-3)
    assert smooth.sum() > 10
    np.testing.assert_allclose(slopes[smooth], expected[smooth], rtol=1e-5, atol=1e-7)
    assert (curvatures >= 0).all()


def points(seed, link="identity"):
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.5, 5.5, 400) if link == "identity" else rng.uniform(-2, 2, 400)
    return rng.uniform(0.5, 5.5, 400), scores


@pytest.mark.parametrize("loss", CATALOG, ids=lambda loss: loss.name)
def test_the_derived_slope_of_a_named_loss_agrees_with_central_differences(loss):
    assert_slope_is_that_of_the_error(loss, *points(0, loss.link))


@pytest.mark.parametrize("link", ["sigmoid", "exp"])
def test_a_link_enters_the_slope_by_the_chain_rule(link):
    loss = declare("huber", link=link, rating_range=(0.0, 6.0))
    assert_slope_is_that_of_the_error(loss, *points(1, link))


def random_expression(rng, depth):
    """Any expression that stays inside every function's domain for r and r_hat between 0.5 and 5.5."""
    if depth == 0:
        return str(rng.choice(["r", "r_hat", "r_hat", "(r - r_hat)", f"{rng.uniform(0.2, 3):.2f}"]))
    a, b = (random_expression(rng, depth - 1) for _ in range(2))
    u = f"{rng.uniform(0.1, 0.5):.2f}"
    return str(
        rng.choice(
            [
                *(f"({a} + {b})", f"({a} - {b})", f"({a} * {b})", f"({a} / (1 + abs({b})))", f"tanh({u} * {a})"),
                *(f"sqrt(1 + ({a})**2)", f"log(1 + abs({a}))", f"log(cosh({u} * {a}))", f"softplus({u} * {a})"),
                *(f"exp(tanh({u} * {a}))", f"log1p(({a})**2)", f"sigmoid({u} * {a})", f"minimum({a}, {b})"),
                *(f"maximum({a}, {b})", f"huber({a}, 1.5)", f"where({a} < {b}, {a}, {b} / 2)", f"(1 + abs({a}))**0.7"),
                *(f"abs({a})", f"({a})**2", f"(1 + ({a})**2)**-1.5", f"sinh(tanh({a}))", f"-{a}"),
            ]
        )
    )


@pytest.mark.parametrize("seed", range(50))
def test_the_derived_slope_of_a_random_expression_agrees_with_central_differences(seed):
    rng = np.random.default_rng(seed)
    loss = declare(f"{random_expression(rng, 3)} + (r - r_hat)**2 / 2")
    assert_slope_is_that_of_the_error(loss, *points(seed))


@pytest.mark.parametrize(
    ("penalty", "decay"),
    [("l2", 1.0), ("none", 0.0), ("theta**2", 2.0), ("elastic_net", None), ("theta**4", None), ("p**2 / 2", None)],
)
def test_a_penalty_that_shrinks_every_parameter_alike_is_weight_decay(penalty, decay):
    assert decay_of(declare(penalty=penalty)) == decay
