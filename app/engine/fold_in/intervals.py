"""Calibrated prediction intervals: wide enough to cover the share of ratings that they promise.

Predicted standard deviations assume Gaussian errors; real errors are not. The quantiles of |r - r_hat| / sd over
held-out ratings are the reach of each level (split conformal prediction: Lei et al. 2018, section 5.2, with local
weights). Users and items are in buckets by number of ratings, and a bucket's widening is the factor that its own
quantile needs.
"""

from __future__ import annotations

import statistics
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.engine.arrays import Vector32, Vector64
from app.engine.factors import Posterior

INTERVAL_LEVEL = 0.8
"""Probability with which a rating lies inside its interval, by default and where coverage is measured."""
LEVELS = (0.0, 0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
"""Levels for which the reach is measured; between them it is interpolated."""
BUCKETS = (1, 3, 10, 30, 100, 300)
"""First number of ratings of every bucket but the first."""
N_BUCKETS = len(BUCKETS) + 1
_LEVELS, _BUCKETS = np.array(LEVELS), np.array(BUCKETS)
_CALIBRATED = 0.8
_WEIGHT = 60.0
"""Ratings that a widening of 1 weighs in a bucket."""
_ROUNDS = 5


class Calibration(NamedTuple):
    """Standard deviations to each side of a prediction: by level, times factors by bucket of user and item."""

    reach: Vector64
    user_widening: Vector64
    item_widening: Vector64


def calibrated(
    deviations: Vector64, user_counts: npt.NDArray[np.integer], item_counts: npt.NDArray[np.integer]
) -> Calibration:
    """From |r - r_hat| / sd of held-out ratings, and the numbers of training ratings of their users and items."""
    users, items = _buckets(user_counts), _buckets(item_counts)
    widening = np.ones((2, N_BUCKETS))
    for _ in range(_ROUNDS):
        for side, own in enumerate((users, items)):
            others = (users, items)[1 - side]
            rest = deviations / widening[1 - side, others]
            whole = _quantile(rest / widening[side, own], _CALIBRATED)
            for bucket in range(N_BUCKETS):
                widening[side, bucket] = _shrunken(rest[own == bucket], whole)
    rest = deviations / (widening[0, users] * widening[1, items])
    reach = np.array([_quantile(rest, level) for level in LEVELS])
    return Calibration(reach, widening[0], widening[1])


def calibrated_reach(
    posterior: Posterior, n_ratings: int, item_counts: npt.NDArray[np.integer], level: float
) -> Vector64:
    """Standard deviations on each side of a prediction, for items with so many ratings and a user with n_ratings."""
    user = posterior.user_widening[_buckets(np.array([n_ratings]))]
    reach: Vector64 = np.interp(level, _LEVELS, posterior.reach) * user * posterior.item_widening[_buckets(item_counts)]
    return reach


def calibrated_interval(
    posterior: Posterior,
    n_ratings: int,
    item_counts: npt.NDArray[np.integer],
    values: Vector32,
    variances: Vector32,
    level: float = INTERVAL_LEVEL,
) -> tuple[Vector32, Vector32]:
    """Lower and upper ends around predicted values [n], for a user with n_ratings."""
    reach = calibrated_reach(posterior, n_ratings, item_counts, level) * np.sqrt(variances)
    return np.asarray(values - reach, np.float32), np.asarray(values + reach, np.float32)


def gaussian_interval(
    values: Vector32, variances: Vector32, level: float = INTERVAL_LEVEL
) -> tuple[Vector32, Vector32]:
    """Lower and upper ends of the central interval that holds a rating with this probability if errors are Gaussian."""
    reach = gaussian_reach(level) * np.sqrt(variances)
    return np.asarray(values - reach, np.float32), np.asarray(values + reach, np.float32)


def gaussian_reach(level: float) -> float:
    """Standard deviations on each side of the mean that hold this share of a Gaussian distribution."""
    return statistics.NormalDist().inv_cdf(0.5 + level / 2)


def _buckets(counts: npt.NDArray[np.integer]) -> npt.NDArray[np.intp]:
    return np.searchsorted(_BUCKETS, counts, side="right")


def _shrunken(deviations: Vector64, whole: float) -> float:
    """Quantile of these by that of all, shrunk towards 1 (as a geometric mean) by the number of ratings."""
    if not deviations.size or whole <= 0:
        return 1.0
    own = max(_quantile(deviations, _CALIBRATED), 1e-3 * whole)
    return float((own / whole) ** (deviations.size / (deviations.size + _WEIGHT)))


def _quantile(deviations: Vector64, level: float) -> float:
    """The (n + 1) level-th smallest: a new one is below it with at least this probability."""
    if not deviations.size:
        return 0.0
    place = min(int(np.ceil((deviations.size + 1) * level)), deviations.size)
    return float(np.sort(deviations)[max(place - 1, 0)])
