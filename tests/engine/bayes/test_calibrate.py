import dataclasses
import statistics

import numpy as np
import pytest

from app.engine.bayes.calibrate import calibrate, calibrate_like
from app.engine.fold_in.intervals import LEVELS
from tests.engine.worlds import planted, random_model, random_posterior


def average(seed=0):
    model = random_model(300, 200, k=4, seed=seed)
    return dataclasses.replace(model, posterior=random_posterior(model))


def test_without_a_holdout_intervals_are_gaussian_and_the_covariance_is_halved():
    model = average()
    calibrated = calibrate(model, planted().ratings, None).posterior
    assert calibrated.reach[LEVELS.index(0.8)] == pytest.approx(statistics.NormalDist().inv_cdf(0.9))
    assert calibrated.implicit_covariance == pytest.approx(0.5 * model.posterior.implicit_covariance)
    np.testing.assert_array_equal(calibrated.item_noise, model.posterior.item_noise)


def test_a_fit_without_a_holdout_takes_scales_and_intervals_from_the_first():
    world = planted()
    first = calibrate(average(), world.ratings, world.unseen)
    second = calibrate_like(average(seed=1), first)
    for name in ("reach", "user_widening", "item_widening", "holdout_scales"):
        np.testing.assert_array_equal(getattr(second.posterior, name), getattr(first.posterior, name))
