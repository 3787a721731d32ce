"""The quality report: errors of simple baselines, and of the predictions by number of ratings of user and item."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from app.engine.arrays import Counts, Rows, Vector32, Vector64
from app.engine.data.statistics import count_rows
from app.engine.evaluation import interval_coverage, mae, ndcg_at, recall_at, rmse
from app.engine.factors import FactorModel
from app.engine.fold_in.intervals import BUCKETS, INTERVAL_LEVEL
from app.registry.metrics import Baselines, Bucket, Errors, QualityReport, Ranking
from app.settings import RatingScale
from app.training.evaluation.holdout import TOP, HoldoutPredictions, HoldoutSplit, users_to_rank

_DAMPING = 5.0
"""Ratings of the mean that each user's and each item's bias is damped with."""


def report(
    model: FactorModel, split: HoldoutSplit, predictions: HoldoutPredictions, scale: RatingScale
) -> QualityReport:
    """Errors of the baselines on the same hold-out, and of the predictions by bucket."""
    holdout, known = split.holdout, split.known
    user_counts = count_rows(known.user_rows, known.n_users)[holdout.user_rows]
    return QualityReport(
        interval_level=INTERVAL_LEVEL,
        baselines=_baselines(model, split, scale),
        by_ratings_of_user=_by_bucket(predictions, user_counts),
        by_ratings_of_item=_by_bucket(predictions, model.item_counts[holdout.item_rows]),
    )


def _baselines(model: FactorModel, split: HoldoutSplit, scale: RatingScale) -> Baselines:
    counts = model.item_counts.astype(np.float64)
    mean = float(counts @ model.item_means / max(counts.sum(), 1.0))
    actual = split.holdout.values
    guesses = np.full(actual.size, mean), _by_biases(model, split, mean)
    of_mean, of_biases = (_errors(np.clip(guess, scale.min, scale.max), actual) for guess in guesses)
    popularity = _by_popularity(model, split)
    return Baselines(overall_mean=Errors(**of_mean), biases=Errors(**of_biases), popularity=popularity)


def _by_biases(model: FactorModel, split: HoldoutSplit, mean: float) -> Vector64:
    """mean + b_i + b_u, damped means of the residuals: b_i = sum (r - mean) / (c_i + d), then b_u likewise.

    Koren, Bell & Volinsky 2009, eq. 3, by the damped means of Koren 2010, section 2.1.
    """
    holdout, known = split.holdout, split.known
    counts = model.item_counts.astype(np.float64)
    item_bias = counts * (model.item_means - mean) / (counts + _DAMPING)
    residuals = known.values - mean - item_bias[known.item_rows]
    sums = np.bincount(known.user_rows, residuals, minlength=known.n_users)
    user_bias = sums / (count_rows(known.user_rows, known.n_users) + _DAMPING)
    guess: Vector64 = mean + item_bias[holdout.item_rows] + user_bias[holdout.user_rows]
    return guess


def _by_popularity(model: FactorModel, split: HoldoutSplit) -> Ranking:
    """Ranking measures of the most rated items, for the users that the model is measured on."""
    order = np.argsort(-model.item_counts, kind="stable").astype(np.int32)
    measures = [
        (recall_at(best, relevant, TOP), ndcg_at(best, relevant, TOP))
        for rated, _, relevant in users_to_rank(model, split)
        for best in [_first_unrated(order, rated)]
    ]
    if not measures:
        return Ranking()
    recall, ndcg = np.mean(measures, axis=0).tolist()
    return Ranking(recall_at_10=round(recall, 6), ndcg_at_10=round(ndcg, 6))


def _first_unrated(order: Rows, rated: Rows) -> Rows:
    candidates = order[: TOP + rated.size]
    return candidates[~np.isin(candidates, rated)][:TOP]


def _by_bucket(predictions: HoldoutPredictions, counts: Counts) -> list[Bucket]:
    """One entry per bucket with predictions: its lowest and highest number of ratings, and the measures."""
    buckets = []
    for first, after in itertools.zip_longest((0, *BUCKETS), BUCKETS):  # the last one is open
        mask = counts >= first if after is None else (counts >= first) & (counts < after)
        if mask.any():
            last = None if after is None else after - 1
            buckets.append(_bucket(predictions, mask, first, last))
    return buckets


def _bucket(predictions: HoldoutPredictions, mask: npt.NDArray[np.bool_], first: int, last: int | None) -> Bucket:
    arrays = predictions.actual, predictions.predicted, predictions.lower, predictions.upper
    actual, predicted, lower, upper = (array[mask] for array in arrays)
    return Bucket(
        first=first,
        last=last,
        n=actual.size,
        **_errors(predicted, actual),
        coverage=round(interval_coverage(actual, lower, upper), 6),
        width=round(float((upper - lower).mean()), 6),
    )


def _errors(predicted: npt.NDArray[np.floating], actual: Vector32) -> dict[str, float]:
    return {"rmse": round(rmse(predicted, actual), 6), "mae": round(mae(predicted, actual), 6)}
