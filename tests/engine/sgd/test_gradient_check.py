"""What the self-check finds before a fit begins."""

import numpy as np
import pytest

from app.engine.losses.catalog import ENTRIES
from app.engine.losses.declare import declare
from app.engine.losses.grammar import InvalidLoss
from app.engine.losses.units import training_units
from app.engine.sgd.gradient_check import check_gradient, kernel_slopes
from app.engine.sgd.kernel_cache import load_kernel
from tests.conftest import KERNELS


def check(text, *, low=0.5, high=5.0, wrong=None, **declared):
    units = training_units(declare(text, rating_range=(low, high), **declared), mean=3.5, spread=1.1)
    slopes_of = kernel_slopes(load_kernel(units.loss, 16, KERNELS), 16)
    check_gradient(units, wrong(slopes_of) if wrong else slopes_of, low, high)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_named_loss_is_what_its_kernel_steps_along(entry):
    check(entry.name)


@pytest.mark.parametrize(
    "text", ["log(cosh(r - r_hat))", "abs(r - r_hat)", "maximum(r - r_hat, 0)**2", "log(1 + (r - r_hat)**2)"]
)
def test_a_declared_loss_with_a_corner_is_taken(text):
    check(text)


@pytest.mark.parametrize("penalty", ["elastic_net", "none"])
def test_the_check_looks_at_the_error_whatever_the_penalty(penalty):
    check("huber", penalty=penalty)


@pytest.mark.parametrize(
    ("text", "position", "what"),
    [
        ("(r - r_hat)**2 + log(r - 3)", 17, "logarithm of zero or a negative"),
        ("(r - r_hat)**2 + sqrt(r_hat - 2)", 17, "root of a negative"),
        ("(r - r_hat)**2 / (r - r)", 0, "divides by zero"),
        ("1 + sqrt((r - r_hat)**2)", 4, "no finite slope"),
        ("r / (r_hat - r)", 0, "divides by zero"),
        ("(r - r_hat)**2 + where(r_hat > 2.7, 1, 0)", 17, "jumps here"),
        ("(r - r_hat)**2 + 2 * sign(r - r_hat)", 21, "jumps here"),
        ("(r - r_hat)**2 + exp(200 * r_hat)", 17, "overflows"),
    ],
)
def test_what_cannot_be_trained_is_named_with_its_place(text, position, what):
    with pytest.raises(InvalidLoss, match=what) as refused:
        check(text)
    assert refused.value.position == position


def test_a_wrong_slope_does_not_get_past():
    with pytest.raises(InvalidLoss, match=r"the compiled slope is .*, differences of the error give"):
        check("huber", wrong=lambda slopes_of: lambda r, score: 1.01 * slopes_of(r, score))


def test_domain_errors_outside_the_range_of_the_ratings_do_not_matter():
    check("(log(r_hat) - log(r))**2")
    with pytest.raises(InvalidLoss, match="logarithm"):
        check("(log(r_hat) - log(r))**2", low=0.0)


def test_the_point_that_shows_the_trouble_is_told_in_rating_units():
    with pytest.raises(InvalidLoss) as refused:
        check("(r - r_hat)**2 + log(r - 3)")
    r = float(refused.value.hint.split("r = ")[1].split(" ")[0])
    assert 0.5 <= r <= 3


def test_the_slopes_of_a_kernel_are_its_own():
    r, score = np.array([1.0, -2.0]), np.array([0.5, 0.0])
    slopes = kernel_slopes(load_kernel(declare("squared"), 16, KERNELS), 16)(r, score)
    assert slopes.tolist() == [-0.5, 2.0]
