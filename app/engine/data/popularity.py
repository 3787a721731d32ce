"""Popularity of items: mean ratings, shrunk to the overall mean by a strength learned from the ratings."""

from __future__ import annotations

import numpy as np

from app.engine.arrays import Counts, Vector32

_DEFAULT = 5.0
"""Ratings that the overall mean weighs where nothing can be learned: typical of ratings of films."""
_LEAST, _MOST = 1.0, 100.0
"""Bounds, so that a handful of ratings cannot make it absurd."""


def learned_shrinkage(counts: Counts, means: Vector32, mean: float, variance: float) -> float:
    """Ratings that the overall mean weighs: variance within items / variance between items' true means.

    Moment estimate of the one-way random effects model (Searle, Casella & McCulloch 1992, section 3.6),
    which is empirical Bayes (Efron & Morris 1975). From the number and mean of each item's ratings, and the mean and
    variance of all.
    """
    is_rated = counts > 0
    sizes = counts[is_rated].astype(np.float64)
    n, n_items = int(counts.sum()), sizes.size
    if n <= n_items or n_items < 2:
        return _DEFAULT
    squares_between = float((sizes * (means[is_rated] - mean) ** 2).sum())
    within = max(n * variance - squares_between, 0.0) / (n - n_items)
    between = squares_between / (n_items - 1)
    effective_size = (n - (sizes**2).sum() / n) / (n_items - 1)
    true_between = (between - within) / effective_size
    return float(np.clip(within / max(true_between, 1e-12), _LEAST, _MOST))


def shrunken_means(counts: Counts, means: Vector32, mean: float, shrinkage: float) -> Vector32:
    """(c m + n_i m_i) / (c + n_i): m the overall mean, n_i and m_i an item's count and mean, c the shrinkage.

    The posterior mean of an item's mean in the one-way random effects model (Gelman et al. 2013, eq. 5.17). NaN for
    items without ratings.
    """
    weights, c = counts.astype(np.float32), np.float32(shrinkage)
    shrunken = (c * np.float32(mean) + weights * means) / (c + weights)
    return np.where(counts > 0, shrunken, np.float32(np.nan)).astype(np.float32)
