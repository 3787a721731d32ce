"""The best rows by score: exact, ties by the smaller row, never an excluded row, fewer when fewer are left."""

from __future__ import annotations

import numpy as np

from app.engine.arrays import InvalidArray, Rows, Vector32, refuse_rows_outside
from app.engine.data.popularity import shrunken_means
from app.engine.factors import FactorModel
from app.engine.fold_in.solve import UserSide
from app.engine.retrieval.brute_force_kernels import cosines, score_items, select_top

_NONE = np.zeros(0, np.int32)
_NONE.flags.writeable = False


def top_n(
    model: FactorModel, user: UserSide, n: int, *, excluded: Rows = _NONE, candidates: Rows | None = None
) -> tuple[Rows, Vector32]:
    """The n items with the highest r_hat for this user, best first, with r_hat (not clipped to any scale).

    Only candidates are considered where given. Rows of -1 (items outside the model) in either list are passed over;
    other rows outside the model raise InvalidArray. Items whose score is not a number never appear.
    """
    scores = np.empty(model.n_items, np.float32)
    score_items(user.factors, model.mean + user.bias, model.item_factors, model.item_bias, scores)
    rows, best = best_rows(scores, n, excluded=excluded, candidates=candidates)
    return rows, model.loss.rating_of(best).astype(np.float32)  # every link rises, so that the order is the same


def similar_items(
    model: FactorModel, item_row: int, n: int, *, excluded: Rows = _NONE, candidates: Rows | None = None
) -> tuple[Rows, Vector32]:
    """The n items whose vectors point most nearly the same way, with the cosine (Sarwar et al. 2001, section 3.1.1).

    The item itself never appears, nor do items without a direction; nothing is similar to one of those.
    """
    if not 0 <= item_row < model.n_items:
        raise InvalidArray("item_row", f"{item_row} is not in a model of {model.n_items} items")
    scores = np.empty(model.n_items, np.float32)
    cosines(model.item_factors[item_row], model.item_factors, scores)
    itself = np.array([item_row], np.int32)
    return best_rows(scores, n, excluded=np.concatenate([excluded, itself]), candidates=candidates)


def popular_items(
    model: FactorModel, n: int, *, excluded: Rows = _NONE, candidates: Rows | None = None
) -> tuple[Rows, Vector32]:
    """The n rated items with the highest Bayesian mean, so that one enthusiastic vote does not win; with that mean."""
    scores = bayesian_means(model)
    return best_rows(scores, n, excluded=excluded, candidates=candidates)


def bayesian_means(model: FactorModel) -> Vector32:
    """How well each item is liked: its mean rating, drawn to the overall one; NaN for items without ratings."""
    return shrunken_means(model.item_counts, model.item_means, model.mean_rating, model.popularity_shrinkage)


def best_rows(
    scores: Vector32, n: int, *, excluded: Rows = _NONE, candidates: Rows | None = None
) -> tuple[Rows, Vector32]:
    """The n rows with the highest scores, best first, and those scores; NaN never appears."""
    if n < 0:
        raise InvalidArray("n", f"must not be negative, not {n}")
    pool = _distinct(candidates, scores.size) if candidates is not None else _NONE
    n_wanted = min(n, pool.size if candidates is not None else scores.size)
    rows, values = np.empty(n_wanted, np.int32), np.empty(n_wanted, np.float32)
    refuse_rows_outside(excluded, scores.size, "excluded", unknown_allowed=True)
    hidden = np.sort(excluded)
    n_found = select_top(scores, hidden, pool, candidates is not None, rows, values)
    return rows[:n_found], values[:n_found]


def _distinct(candidates: Rows, n_rows: int) -> Rows:
    """Ascending, each once, without those outside the model."""
    refuse_rows_outside(candidates, n_rows, "candidates", unknown_allowed=True)
    distinct = np.unique(candidates)
    return distinct[1:] if distinct.size and distinct[0] < 0 else distinct
