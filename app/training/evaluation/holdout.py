"""Predictions for ratings held out, as the service would answer, and the measures of their quality."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from app.engine.arrays import Rows, Vector32, Vector64, evenly_spaced
from app.engine.data.ratings import Ratings
from app.engine.evaluation import graded_ndcg_at, interval_coverage, mae, ndcg_at, recall_at, rmse
from app.engine.factors import FactorModel
from app.engine.fold_in.fold_in import FoldIn
from app.engine.fold_in.intervals import INTERVAL_LEVEL
from app.engine.losses.base import Loss
from app.engine.losses.declare import error_tree
from app.engine.losses.evaluate import value_of
from app.engine.retrieval.brute_force import top_n
from app.engine.retrieval.by_relevance import relevance_model, relevance_user
from app.settings import RatingScale

MAX_USERS = 2_000
"""Users that an evaluation folds in; if there are more, an evenly spaced sample of them."""
MAX_SCORES = 100_000_000
"""Item scores that ranking may compute; beyond, fewer users are ranked."""
TOP = 10


@dataclass(frozen=True, slots=True)
class HoldoutSplit:
    """Ratings held out, and all other ratings of the same users; both sorted by user."""

    holdout: Ratings
    known: Ratings

    @classmethod
    def of(cls, train: Ratings, holdout: Ratings) -> HoldoutSplit:
        """At most MAX_USERS users, the same ones for the same ratings."""
        users = evenly_spaced(np.unique(holdout.user_rows), MAX_USERS)
        is_included = np.zeros(holdout.n_users, np.bool_)
        is_included[users] = True
        return cls(holdout.take(is_included[holdout.user_rows]), train.take(is_included[train.user_rows]))

    def users(self) -> list[tuple[slice, slice]]:
        """Of each user the slices of `holdout` and of `known`."""
        rows = np.unique(self.holdout.user_rows)
        return list(zip(_slices(self.holdout.user_rows, rows), _slices(self.known.user_rows, rows), strict=True))


@dataclass(frozen=True, slots=True)
class HoldoutPredictions:
    """Actual ratings, predictions and intervals of a hold-out, on the rating scale."""

    actual: Vector32
    predicted: Vector32
    lower: Vector32
    upper: Vector32

    def errors(self, loss: Loss) -> Vector64:
        """Declared error of each prediction, minus that of predicting the rating itself."""
        if loss.is_squared:
            errors: Vector64 = (self.predicted.astype(np.float64) - self.actual) ** 2
            return errors
        r, tree = self.actual.astype(np.float64), error_tree(loss)
        error, least = (value_of(tree, {"r": r, "r_hat": r_hat.astype(np.float64)}) for r_hat in (self.predicted, r))
        return error - np.where(np.isfinite(least), least, 0.0)

    @property
    def rmse(self) -> float:
        return rmse(self.predicted, self.actual)


def predict_holdout(
    model: FactorModel, split: HoldoutSplit, scale: RatingScale, model_rows: Rows | None = None
) -> HoldoutPredictions:
    """What the service would answer: each user folded in from the known ratings, then the hold-out predicted.

    model_rows: the model's row of each item row of the split, -1 if it has none; None if they are the same
    """
    holdout, known = split.holdout, split.known
    holdout_rows = holdout.item_rows if model_rows is None else model_rows[holdout.item_rows]
    known_rows = known.item_rows if model_rows is None else model_rows[known.item_rows]
    fold_in = FoldIn(model)
    values, lower, upper = (np.empty(len(holdout), np.float32) for _ in range(3))
    for of_holdout, of_known in split.users():
        rows = holdout_rows[of_holdout]
        user = fold_in.fold_in(known_rows[of_known], known.values[of_known])
        values[of_holdout], variances = fold_in.predict(user, rows)
        lower[of_holdout], upper[of_holdout] = fold_in.interval(user, rows, values[of_holdout], variances)
    clipped = (np.clip(array, scale.min, scale.max) for array in (values, lower, upper))
    return HoldoutPredictions(holdout.values, *clipped)


def measure(
    model: FactorModel, split: HoldoutSplit, predictions: HoldoutPredictions, scale: RatingScale
) -> dict[str, float]:
    """Errors by fold-in (as served), by the trained vectors and by item means, and ranking measures."""
    holdout = split.holdout
    trained = np.clip(model.predict(holdout.user_rows, holdout.item_rows), scale.min, scale.max)
    measures = {
        "holdout_rmse": predictions.rmse,
        "holdout_mae": mae(predictions.predicted, predictions.actual),
        "holdout_rmse_trained_vectors": rmse(trained, holdout.values),
        "holdout_mae_trained_vectors": mae(trained, holdout.values),
        "holdout_rmse_item_means": rmse(model.item_means[holdout.item_rows], holdout.values),
        f"holdout_interval_{round(100 * INTERVAL_LEVEL)}_coverage": interval_coverage(
            predictions.actual, predictions.lower, predictions.upper
        ),
        f"ndcg_at_{TOP}_of_rated": _ndcg_of_rated(split, predictions),
        **_ranking_measures(model, split),
    }
    return {name: round(value, 6) for name, value in measures.items() if math.isfinite(value)}


def users_to_rank(model: FactorModel, split: HoldoutSplit) -> Iterator[tuple[Rows, Vector32, Rows]]:
    """Of each user with a relevant item in the hold-out: known item rows, their ratings, and relevant item rows.

    Relevant: rated no lower than the user's mean known rating (the overall mean if the user has none).
    """
    users = split.users()
    for position in evenly_spaced(np.arange(len(users), dtype=np.int32), MAX_SCORES // model.n_items).tolist():
        of_holdout, of_known = users[position]
        values = split.known.values[of_known]
        is_relevant = split.holdout.values[of_holdout] >= (values.mean() if values.size else model.mean_rating)
        relevant = split.holdout.item_rows[of_holdout][is_relevant]
        if relevant.size:
            yield split.known.item_rows[of_known], values, relevant


def _slices(sorted_rows: Rows, rows: Rows) -> list[slice]:
    starts, ends = np.searchsorted(sorted_rows, rows, "left"), np.searchsorted(sorted_rows, rows, "right")
    return [slice(start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def _ranking_measures(model: FactorModel, split: HoldoutSplit) -> dict[str, float]:
    """Mean recall and nDCG of the top 10 by predicted rating, and of the top 10 by relevance."""
    fold_in, ordering = FoldIn(model), relevance_model(model)
    rows: list[tuple[float, ...]] = []
    for rated, values, relevant in users_to_rank(model, split):
        user = fold_in.fold_in(rated, values)
        by_value, _ = top_n(model, user, TOP, excluded=rated)
        by_relevance, _ = top_n(ordering, relevance_user(model, user, rated), TOP, excluded=rated)
        rows.append(tuple(at(best, relevant, TOP) for best in (by_value, by_relevance) for at in (recall_at, ndcg_at)))
    names = [f"{measure}_at_{TOP}{order}" for order in ("", "_by_relevance") for measure in ("recall", "ndcg")]
    return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True)) if rows else {}


def _ndcg_of_rated(split: HoldoutSplit, predictions: HoldoutPredictions) -> float:
    """Mean nDCG of each user's held-out ratings, ranked by prediction among themselves."""
    actual, predicted = predictions.actual, predictions.predicted
    ndcgs = [graded_ndcg_at(predicted[of_user], actual[of_user], TOP) for of_user, _ in split.users()]
    defined = [ndcg for ndcg in ndcgs if not math.isnan(ndcg)]
    return float(np.mean(defined)) if defined else math.nan
