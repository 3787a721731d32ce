"""Hold-outs, and the measures that say how good a model is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from app.engine.arrays import InvalidArray, Rows, Vector32
from app.engine.data.ratings import Ratings
from app.engine.losses.base import Loss
from app.engine.losses.declare import error_tree
from app.engine.losses.evaluate import value_of


def split_holdout(ratings: Ratings, fraction: float, seed: int) -> tuple[Ratings, Ratings]:
    """(train, holdout): floor(fraction n) ratings, drawn without replacement, are held out.

    The same seed draws the same. Both keep all rows, so a model of the one can be asked about the other. Few ratings
    may leave the hold-out empty.
    """
    if not 0.0 <= fraction < 1.0:
        raise InvalidArray("fraction", f"must be at least 0 and below 1, not {fraction}")
    is_held_out = np.zeros(len(ratings), np.bool_)
    n_held_out = int(fraction * len(ratings))
    is_held_out[np.random.default_rng(seed).choice(len(ratings), n_held_out, replace=False)] = True
    return ratings.take(~is_held_out), ratings.take(is_held_out)


def rmse(predicted: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """Root of the mean squared difference (Herlocker et al. 2004, section 4.1); NaN of nothing."""
    differences = _differences(predicted, actual)
    return float(np.sqrt(np.mean(differences**2))) if differences.size else float("nan")


def mae(predicted: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """Mean absolute difference (Herlocker et al. 2004, section 4.1); NaN of nothing."""
    differences = _differences(predicted, actual)
    return float(np.mean(np.abs(differences))) if differences.size else float("nan")


def errors_of(loss: Loss, scores: npt.ArrayLike, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The declared error of each score (before the link), in the loss's own units."""
    r, r_hat = loss.unit * np.asarray(values, np.float64), loss.unit * loss.rating_of(scores)
    return value_of(error_tree(loss), {"r": r, "r_hat": r_hat}) / loss.divisor


def mean_error(loss: Loss, scores: npt.ArrayLike, values: npt.ArrayLike) -> float:
    """Mean declared error; NaN of nothing."""
    errors = errors_of(loss, scores, values)
    return float(errors.mean()) if errors.size else float("nan")


def recall_at(recommended: Rows, relevant: Rows, n: int) -> float:
    """Hits among the first n recommended / min(n, relevant items): 1 is as many as there could be.

    Cremonesi, Koren & Turrin 2010 in the normalised form of Liang et al. 2018, eq. 9. NaN where nothing is relevant.
    """
    n_reachable = min(n, np.unique(relevant).size)
    if n_reachable == 0:
        return float("nan")
    return float(np.isin(recommended[:n], relevant).sum() / n_reachable)


def ndcg_at(recommended: Rows, relevant: Rows, n: int) -> float:
    """sum over hits of 1 / log2(1 + place), places from 1, over that of the best order; relevance is yes or no.

    Järvelin & Kekäläinen 2002. NaN where nothing is relevant.
    """
    n_reachable = min(n, np.unique(relevant).size)
    if n_reachable == 0:
        return float("nan")
    discounts = 1.0 / np.log2(np.arange(2, n + 2))
    first = recommended[:n]
    gained = discounts[: first.size][np.isin(first, relevant)].sum()
    return float(gained / discounts[:n_reachable].sum())


def graded_ndcg_at(scores: npt.ArrayLike, values: npt.ArrayLike, n: int) -> float:
    """nDCG of rated items put in the order of their scores, ties as they come; gains are ratings above the lowest.

    Järvelin & Kekäläinen 2002. NaN where the ratings are all equal: every order is as good.
    """
    ratings = np.asarray(values, np.float64)
    if not ratings.size or ratings.min() == ratings.max():
        return float("nan")
    gains = ratings - ratings.min()
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")[:n]
    discounts = 1.0 / np.log2(np.arange(2, order.size + 2))
    return float((gains[order] * discounts).sum() / (np.sort(gains)[::-1][: order.size] * discounts).sum())


def interval_coverage(actual: Vector32, lower: Vector32, upper: Vector32) -> float:
    """Share of ratings inside their interval, ends included: the level, if intervals are honest; NaN of nothing."""
    if not actual.size:
        return float("nan")
    return float(np.mean((lower <= actual) & (actual <= upper)))


def _differences(predicted: npt.ArrayLike, actual: npt.ArrayLike) -> npt.NDArray[np.float64]:
    left, right = np.asarray(predicted, np.float64), np.asarray(actual, np.float64)
    if left.shape != right.shape:
        raise InvalidArray("predictions", f"have shape {left.shape}, the ratings {right.shape}")
    return left - right
