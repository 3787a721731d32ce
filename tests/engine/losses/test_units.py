"""The units of training: the same steps whatever the scale and the loss."""

import numpy as np
import pytest

from app.engine.losses.catalog import ENTRIES
from app.engine.losses.declare import declare, error_tree
from app.engine.losses.evaluate import value_of
from app.engine.losses.units import degree_of, training_units


@pytest.mark.parametrize(
    ("text", "degree"),
    [
        ("squared", 2),
        ("abs(r - r_hat)", 1),
        ("2 * abs(r - r_hat)**1.5", 1.5),
        ("sqrt((r - r_hat)**2)", 1),
        ("(r - r_hat)**2 / r", 1),
        ("log(r / r_hat)", 0),
        ("where(r > r_hat, (r - r_hat)**2, 3 * (r - r_hat)**2)", 2),
        ("where(r > 0, (r - r_hat)**2, r_hat**2)", 2),
        ("huber(r - r_hat, 0.5 * abs(r))", 2),
        ("maximum(0.1 * (r - r_hat), -0.9 * (r - r_hat))", 1),
        ("huber", None),
        ("log_cosh", None),
        ("(r - r_hat)**2 + 0.1", None),
        ("(r - r_hat)**2 + r_hat", None),
        ("where(r > 2, (r - r_hat)**2, 0)", None),
    ],
)
def test_whether_an_error_is_homogeneous_is_read_off_its_text(text, degree):
    loss = declare(text)
    assert degree_of(loss) == degree
    r, r_hat = np.array([1.2, 3.4, 4.9]), np.array([2.2, 0.3, 4.1])
    plain, thrice = (value_of(error_tree(loss), {"r": c * r, "r_hat": c * r_hat}) for c in (1.0, 3.0))
    if degree is not None:
        np.testing.assert_allclose(thrice, plain * 3.0 ** float(degree), rtol=1e-12)


def test_the_squared_error_is_trained_in_standard_deviations_as_it_is():
    units = training_units(declare("squared"), mean=3.5, spread=1.07)
    assert (units.scale, units.mean, units.loss.unit, units.loss.divisor) == (1.07, 3.5, 1.0, 1.0)


def test_a_factor_of_the_error_changes_nothing():
    assert training_units(declare("8 * (r - r_hat)**2"), 3.5, 1.07).loss.divisor == 16


def test_where_the_unit_matters_it_is_rounded_so_that_kernels_are_few():
    scales = {training_units(declare("huber"), 3.5, spread).scale for spread in np.linspace(0.95, 1.05, 20)}
    assert scales == {1.0}
    units = training_units(declare("huber"), 3.5, 20.0)
    assert units.scale == units.loss.unit == pytest.approx(20, rel=0.1)


def slope(loss, r, score):
    h = 1e-5
    ends = value_of(
        error_tree(loss), {"r": np.full(2, loss.unit * r), "r_hat": loss.unit * loss.rating_of([score - h, score + h])}
    )
    return float(ends[1] - ends[0]) / (2 * h) / loss.divisor


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_a_step_one_unit_from_the_rating_is_about_one_unit_long(entry, scale):
    loss = declare(entry.name, rating_range=(0.0, 5 * scale))
    units = training_units(loss, mean=3 * scale, spread=scale)
    score = units.mean / units.scale
    ends = [slope(units.loss, float(units.loss.rating_of(score + side)), score) for side in (-1, 1)]
    assert np.mean(np.abs(ends)) == pytest.approx(1, rel=0.5)


def test_scores_behind_a_link_begin_where_the_mean_rating_is():
    assert training_units(declare("poisson"), 4.0, 1.0).mean == pytest.approx(np.log(4))
    units = training_units(declare("logistic", rating_range=(0, 4)), 3.0, 1.0)
    assert units.mean == pytest.approx(np.log(3))
    assert units.loss.rating_of(units.mean) == pytest.approx(3.0)


@pytest.mark.parametrize("rating", [0.0, 5.0, 2.5])
def test_a_mean_at_the_end_of_the_range_has_a_finite_score(rating):
    loss = declare("logistic", rating_range=(0.0, 5.0))
    assert abs(loss.score_of(rating)) < 10
