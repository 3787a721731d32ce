import dataclasses

import numpy as np
import pytest

from app.engine.factors import Posterior
from app.engine.fold_in.intervals import LEVELS, calibrated, calibrated_reach


def _posterior(calibration):
    nothing = np.zeros(1)
    named = dict.fromkeys((field.name for field in dataclasses.fields(Posterior)), nothing)
    return Posterior(**{**named, **calibration._asdict()})


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_intervals_hold_the_share_that_they_promise_in_every_bucket(level):
    rng = np.random.default_rng(0)
    users, items = rng.choice([5, 50, 500], 30_000), rng.choice([2, 20, 200], 30_000)
    truth = np.where(users == 5, 2.0, 1.0) * np.where(items == 200, 0.5, 1.0)
    calibration = calibrated(np.abs(rng.standard_t(6, 30_000)) * truth, users, items)
    posterior = _posterior(calibration)
    fresh = np.abs(rng.standard_t(6, 30_000)) * truth
    for user in (5, 50, 500):
        asked = users == user
        reach = calibrated_reach(posterior, user, items[asked], level)
        for item in (2, 20, 200):
            inside = fresh[asked] <= reach
            assert inside[items[asked] == item].mean() == pytest.approx(level, abs=0.035)


def test_a_bucket_with_hardly_any_ratings_is_taken_for_an_average_one():
    rng = np.random.default_rng(1)
    users, items = np.full(2000, 50), np.full(2000, 20)
    users[:3] = 5
    deviations = np.abs(rng.standard_normal(2000))
    deviations[:3] = 100.0
    calibration = calibrated(deviations, users, items)
    assert calibration.user_widening[2] < 1.5
    assert calibration.reach[LEVELS.index(0.8)] == pytest.approx(1.28, abs=0.15)


def test_higher_levels_reach_further():
    calibration = calibrated(np.abs(np.random.default_rng(2).standard_normal(500)), np.full(500, 9), np.full(500, 9))
    reach = [calibrated_reach(_posterior(calibration), 9, np.array([9]), level)[0] for level in (0.3, 0.5, 0.8, 0.99)]
    assert reach == sorted(reach)
