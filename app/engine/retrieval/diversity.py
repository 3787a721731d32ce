"""Diverse lists: maximal marginal relevance over item vectors."""

from __future__ import annotations

import math

import numpy as np
from numba import float32, float64, int32, njit, void

from app.engine.arrays import InvalidArray, Matrix32, Rows, Vector32
from app.engine.numba_types import READ_MATRIX, READ_VECTOR

POOL = 500
"""Best items by score among which a diverse list chooses; after them the list goes on by score alone."""


def diverse_order(scores: Vector32, item_factors: Matrix32, diversity: float, n: int) -> Rows:
    """Positions of the first n items of a diverse list, among items in the order of their scores.

    Each next item i is the one with the largest (Carbonell & Goldstein 1998)

        (1 - d) relevance_i - d max_j cos(q_i, q_j)      over the items j that are in the list already

    relevance_i is the score scaled to the range from 0 to 1. The first item is the best one; ties go to the better one.
    d = 0 changes nothing. A longer list begins with the shorter one. O(n k) per item.

    scores [n_items], falling   item_factors [n_items, k]
    """
    if not 0.0 <= diversity <= 1.0:
        raise InvalidArray("diversity", f"must be from 0 to 1, not {diversity}")
    if scores.size != item_factors.shape[0]:
        raise InvalidArray("item_factors", f"are {item_factors.shape[0]} rows for {scores.size} scores")
    order = np.arange(min(n, scores.size), dtype=np.int32)
    if diversity > 0 and order.size > 1:
        spread = max(float(scores[0] - scores[-1]), 1e-12)
        pick_diverse((scores - scores[-1]) / np.float32(spread), _directions(item_factors), diversity, order)
    return order


def _directions(item_factors: Matrix32) -> Matrix32:
    """Rows scaled to length 1; zero vectors stay zero, and are similar to nothing."""
    lengths = np.linalg.norm(item_factors, axis=1, keepdims=True)
    return np.ascontiguousarray(item_factors / np.where(lengths > 0, lengths, 1), np.float32)


@njit(void(READ_VECTOR, READ_MATRIX, float64, int32[::1]), nogil=True, cache=True)
def pick_diverse(relevance: Vector32, directions: Matrix32, diversity: float, order: Rows) -> None:
    """Fills order [n] with positions. relevance [n_items]   directions [n_items, k]; n <= n_items"""
    n_items, k = directions.shape
    nearest = np.full(n_items, -math.inf, np.float32)  # the largest cosine with an item that is in the list
    order[0], last = 0, 0
    nearest[0] = math.inf
    for place in range(1, order.size):
        best, best_value = -1, -math.inf
        for i in range(n_items):
            if nearest[i] == math.inf:  # is in the list
                continue
            cosine = float32(0.0)
            for f in range(k):
                cosine += directions[i, f] * directions[last, f]
            nearest[i] = max(nearest[i], cosine)
            value = (1.0 - diversity) * relevance[i] - diversity * nearest[i]
            if best < 0 or value > best_value:
                best, best_value = i, value
        order[place], last = best, best
        nearest[best] = math.inf
