"""What an averaged model learns from held-out ratings: the scale of its estimates and the width of its intervals."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from app.engine.arrays import Rows, Vector32, evenly_spaced
from app.engine.data.ratings import Ratings
from app.engine.data.statistics import count_rows
from app.engine.factors import FactorModel
from app.engine.fold_in.fold_in import FoldIn
from app.engine.fold_in.intervals import LEVELS, calibrated, gaussian_reach

_MAX_USERS = 1000
"""Users whose held-out ratings are predicted."""
_COVARIANCE_SCALES = (0.15, 0.25, 0.35, 0.5, 1.0)
_DEFAULT_COVARIANCE_SCALE = 0.5
"""Factor of the estimated implicit_covariance. The estimate takes the items for known, which makes users look more
different from their implicit prior means than they are; the hold-out says by how much."""
_NOISE_SCALES = (1.0, 3.0)
"""Factor of the estimated item_noise - 1."""


class _HeldOutUser(NamedTuple):
    """The ratings of one user to fold in, and those that were held out."""

    known_rows: Rows
    known_values: Vector32
    item_rows: Rows
    values: Vector32


def calibrate(model: FactorModel, ratings: Ratings, holdout: Ratings | None) -> FactorModel:
    """The model with the scales that predict the hold-out best by folding in, and with calibrated intervals.

    Without a hold-out: a default scale, and Gaussian intervals.
    """
    users = _held_out_users(ratings, holdout)
    if not users:
        gaussian = [gaussian_reach(level) for level in LEVELS]
        return _with(_scaled(model, _DEFAULT_COVARIANCE_SCALE, 1.0), reach=np.array(gaussian))
    models = [_scaled(model, *scales) for scales in itertools.product(_COVARIANCE_SCALES, _NOISE_SCALES)]
    return _with_intervals(min(models, key=lambda candidate: _squared_error(candidate, users)), users)


def calibrate_like(model: FactorModel, first: FactorModel) -> FactorModel:
    """The model with the scales and intervals of the first fit, which had a hold-out."""
    measured = first.posterior
    assert measured is not None
    return _with(
        _scaled(model, *measured.holdout_scales.tolist()),
        reach=measured.reach,
        user_widening=measured.user_widening,
        item_widening=measured.item_widening,
    )


def _scaled(model: FactorModel, covariance_scale: float, noise_scale: float) -> FactorModel:
    posterior = model.posterior
    assert posterior is not None
    return _with(
        model,
        implicit_covariance=covariance_scale * posterior.implicit_covariance,
        item_noise=(1.0 + noise_scale * (posterior.item_noise - 1.0)).astype(np.float32),
        holdout_scales=np.array([covariance_scale, noise_scale]),
    )


def _with(model: FactorModel, **changes: Any) -> FactorModel:
    assert model.posterior is not None
    return dataclasses.replace(model, posterior=dataclasses.replace(model.posterior, **changes))


def _squared_error(model: FactorModel, users: list[_HeldOutUser]) -> float:
    return sum(float(((user.values - predicted) ** 2).sum()) for user, (predicted, _) in _predictions(model, users))


def _with_intervals(model: FactorModel, users: list[_HeldOutUser]) -> FactorModel:
    """Intervals that cover as large a share of the hold-out as they promise."""
    deviations, user_counts, item_counts = [], [], []
    for user, (predicted, variances) in _predictions(model, users):
        deviations.append(np.abs(user.values - predicted) / np.sqrt(variances))
        user_counts.append(np.full(predicted.size, user.known_rows.size))
        item_counts.append(model.item_counts[user.item_rows])
    measured = calibrated(*map(np.concatenate, (deviations, user_counts, item_counts)))
    return _with(model, **measured._asdict())


def _held_out_users(ratings: Ratings, holdout: Ratings | None) -> list[_HeldOutUser]:
    """At most so many users with held-out ratings; none without a hold-out."""
    if holdout is None or not len(holdout):
        return []
    users = evenly_spaced(np.flatnonzero(count_rows(holdout.user_rows, holdout.n_users)), _MAX_USERS)
    slices = [(ratings.of_user(row), holdout.of_user(row)) for row in users.tolist()]
    return [
        _HeldOutUser(ratings.item_rows[own], ratings.values[own], holdout.item_rows[out], holdout.values[out])
        for own, out in slices
    ]


def _predictions(
    model: FactorModel, users: list[_HeldOutUser]
) -> Iterator[tuple[_HeldOutUser, tuple[Vector32, Vector32]]]:
    """Predictions and variances of each user's held-out ratings."""
    fold_in = FoldIn(model)
    for user in users:
        folded = fold_in.fold_in(user.known_rows, user.known_values)
        yield user, fold_in.predict(folded, user.item_rows)
