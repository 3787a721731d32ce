"""How good a fit is beside simple rules, and for whom: by the number of ratings of user and item."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine.arrays import Counts, Rows, Vector64
from app.engine.data.statistics import count_rows
from app.engine.evaluation import interval_coverage, mae, ndcg_at, recall_at, rmse
from app.engine.factors import FactorModel
from app.engine.fold_in.intervals import BUCKETS, INTERVAL_LEVEL
from app.settings import RatingScale
from app.training.evaluation.holdout import TOP, Questions, Sheet, ranked_users

_DAMPING = 5.0
"""Ratings that a bias of zero weighs against those that a user or an item has."""


def report(model: FactorModel, questions: Questions, sheet: Sheet, scale: RatingScale) -> dict[str, Any]:
    """What simple rules do on the same questions, and the errors and intervals of the sheet by bucket, as JSON."""
    asked, known = questions.asked, questions.known
    user_counts = count_rows(known.user_rows, known.n_users)[asked.user_rows]
    return {
        "interval_level": INTERVAL_LEVEL,
        "baselines": _baselines(model, questions, scale),
        "by_ratings_of_user": _by_bucket(sheet, user_counts),
        "by_ratings_of_item": _by_bucket(sheet, model.item_counts[asked.item_rows]),
    }


def _baselines(model: FactorModel, questions: Questions, scale: RatingScale) -> dict[str, dict[str, float]]:
    counts = model.item_counts.astype(np.float64)
    mean = float(counts @ model.item_means / max(counts.sum(), 1.0))
    actual = questions.asked.values
    guesses = {"overall_mean": np.full(actual.size, mean), "biases": _by_biases(model, questions, mean)}
    clipped = {name: np.clip(guess, scale.min, scale.max) for name, guess in guesses.items()}
    errors = {name: _finite(rmse=rmse(guess, actual), mae=mae(guess, actual)) for name, guess in clipped.items()}
    return errors | {"popularity": _by_popularity(model, questions)}


def _by_biases(model: FactorModel, questions: Questions, mean: float) -> Vector64:
    """mean + b_i + b_u, damped means of what is left: b_i = sum (r - mean) / (c_i + d), then b_u likewise.

    Koren, Bell & Volinsky 2009, eq. 3, by the damped means of Koren 2010, section 2.1.
    """
    asked, known = questions.asked, questions.known
    counts = model.item_counts.astype(np.float64)
    of_items = counts * (model.item_means - mean) / (counts + _DAMPING)
    left = known.values - mean - of_items[known.item_rows]
    sums = np.bincount(known.user_rows, left, minlength=known.n_users)
    of_users = sums / (count_rows(known.user_rows, known.n_users) + _DAMPING)
    guess: Vector64 = mean + of_items[asked.item_rows] + of_users[asked.user_rows]
    return guess


def _by_popularity(model: FactorModel, questions: Questions) -> dict[str, float]:
    """Ranking by number of ratings, for the users that the model is asked to rank for."""
    order = np.argsort(-model.item_counts, kind="stable").astype(np.int32)
    found = [
        (recall_at(best, relevant, TOP), ndcg_at(best, relevant, TOP))
        for rated, _, relevant in ranked_users(model, questions)
        for best in [_first_besides(order, rated)]
    ]
    if not found:
        return {}
    recall, ndcg = np.mean(found, axis=0).tolist()
    return _finite(**{f"recall_at_{TOP}": recall, f"ndcg_at_{TOP}": ndcg})


def _first_besides(order: Rows, rated: Rows) -> Rows:
    candidates = order[: TOP + rated.size]
    return candidates[~np.isin(candidates, rated)][:TOP]


def _by_bucket(sheet: Sheet, counts: Counts) -> list[dict[str, float | int | None]]:
    """One entry per bucket that was asked about: its first and last number of ratings, and how the answers did."""
    buckets = []
    for first, after in itertools.zip_longest((0, *BUCKETS), BUCKETS):  # the last one has no end
        places = counts >= first if after is None else (counts >= first) & (counts < after)
        if places.any():
            last = None if after is None else after - 1
            buckets.append({"from": first, "to": last, "n": int(places.sum()), **_measures(sheet, places)})
    return buckets


def _measures(sheet: Sheet, places: npt.NDArray[np.bool_]) -> dict[str, float]:
    actual, predicted, lower, upper = (
        part[places] for part in (sheet.actual, sheet.predicted, sheet.lower, sheet.upper)
    )
    return _finite(
        rmse=rmse(predicted, actual),
        mae=mae(predicted, actual),
        coverage=interval_coverage(actual, lower, upper),
        width=float((upper - lower).mean()),
    )


def _finite(**measures: float) -> dict[str, float]:
    return {name: round(value, 6) for name, value in measures.items() if math.isfinite(value)}
