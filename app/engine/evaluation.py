"""Hold-outs, and the metrics of a model on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine.arrays import InvalidArray, Rows, Vector32
from app.engine.data.ratings import Ratings
from app.engine.losses.base import Loss
from app.engine.losses.declare import error_tree
from app.engine.losses.evaluate import value_of


def split_holdout(ratings: Ratings, fraction: float, seed: int) -> tuple[Ratings, Ratings]:
    """(train, holdout), with floor(fraction * n) ratings held out, drawn without replacement; perhaps none.

    The same seed draws the same ratings. Both parts have the rows of all users and items, so a model of one part can
    predict the other.
    """
    if not 0.0 <= fraction < 1.0:
        raise InvalidArray("fraction", f"must be at least 0 and below 1, not {fraction}")
    is_held_out = np.zeros(len(ratings), np.bool_)
    n_held_out = int(fraction * len(ratings))
    is_held_out[np.random.default_rng(seed).choice(len(ratings), n_held_out, replace=False)] = True
    return ratings.take(~is_held_out), ratings.take(is_held_out)


def rmse(predicted: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """Root mean squared error (Herlocker et al. 2004, section 4.1); NaN of no ratings."""
    return float(np.sqrt(_mean(_differences(predicted, actual) ** 2)))


def mae(predicted: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """Mean absolute error (Herlocker et al. 2004, section 4.1); NaN of no ratings."""
    return _mean(np.abs(_differences(predicted, actual)))


def errors_of(loss: Loss, scores: npt.ArrayLike, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The error term of the loss for each score (the prediction before the link), in the units of the loss."""
    r, r_hat = loss.unit * np.asarray(values, np.float64), loss.unit * loss.rating_of(scores)
    return value_of(error_tree(loss), {"r": r, "r_hat": r_hat}) / loss.divisor


def mean_error(loss: Loss, scores: npt.ArrayLike, values: npt.ArrayLike) -> float:
    """Mean of `errors_of`; NaN of no ratings."""
    return _mean(errors_of(loss, scores, values))


def recall_at(recommended: Rows, relevant: Rows, n: int) -> float:
    """Relevant items among the first n recommended / min(n, number of relevant items), so that 1 can be reached.

    Cremonesi, Koren & Turrin 2010 in the normalised form of Liang et al. 2018, eq. 9. NaN if no item is relevant.
    """
    n_reachable = min(n, np.unique(relevant).size)
    if n_reachable == 0:
        return float("nan")
    return float(np.isin(recommended[:n], relevant).sum() / n_reachable)


def ndcg_at(recommended: Rows, relevant: Rows, n: int) -> float:
    """Sum over relevant items of 1 / log2(1 + rank), ranks from 1, divided by that of the best order.

    Järvelin & Kekäläinen 2002, with binary relevance. NaN if no item is relevant.
    """
    n_reachable = min(n, np.unique(relevant).size)
    if n_reachable == 0:
        return float("nan")
    discounts = 1.0 / np.log2(np.arange(2, n + 2))
    first = recommended[:n]
    gained = discounts[: first.size][np.isin(first, relevant)].sum()
    return float(gained / discounts[:n_reachable].sum())


def graded_ndcg_at(scores: npt.ArrayLike, values: npt.ArrayLike, n: int) -> float:
    """nDCG of rated items in descending order of their scores; the gain of an item is its rating minus the lowest.

    Järvelin & Kekäläinen 2002. Equal scores keep their order. NaN if all ratings are equal: every order is as good.
    """
    ratings = np.asarray(values, np.float64)
    if not ratings.size or ratings.min() == ratings.max():
        return float("nan")
    gains = ratings - ratings.min()
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")[:n]
    discounts = 1.0 / np.log2(np.arange(2, order.size + 2))
    return float((gains[order] * discounts).sum() / (np.sort(gains)[::-1][: order.size] * discounts).sum())


def interval_coverage(actual: Vector32, lower: Vector32, upper: Vector32) -> float:
    """Share of ratings inside their interval, ends included: the level if intervals are calibrated; NaN of none."""
    return _mean((lower <= actual) & (actual <= upper))


def _differences(predicted: npt.ArrayLike, actual: npt.ArrayLike) -> npt.NDArray[np.float64]:
    left, right = np.asarray(predicted, np.float64), np.asarray(actual, np.float64)
    if left.shape != right.shape:
        raise InvalidArray("predictions", f"have shape {left.shape}, the ratings {right.shape}")
    return left - right


def _mean(values: npt.NDArray[Any]) -> float:
    return float(np.mean(values)) if values.size else float("nan")
