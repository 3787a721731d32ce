"""Why an item is recommended: what each rating of a user adds to the item's score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import boolean, float64, int64, njit, void

from app.engine.arrays import (
    InvalidArray,
    Mask,
    Matrix64,
    Rows,
    Vector32,
    Vector64,
    refuse_rows_outside,
    rows,
    vector32,
)
from app.engine.fold_in.declared_loss import evidence_of, working_responses
from app.engine.fold_in.fold_in import FoldIn
from app.engine.fold_in.kernels import decompose_scores
from app.engine.fold_in.user import UserVector


@dataclass(frozen=True, slots=True)
class ScoreParts:
    """score_j = prior_j + sum_i shares_ji + learned_j, of n items for a user with m ratings.

    scores, prior, learned [n]   shares [n, m]: what rating i adds to the score of item j. Scores are before the link of
    the loss and not clipped to any scale.
    """

    scores: Vector64
    prior: Vector64
    """The part that depends on no rating: the mean, the item's bias and the prior, as far as the ratings leave it."""
    shares: Matrix64
    learned: Vector64
    """What a trained vector adds to these; zero but for rounding where the user was folded in."""


def explain(
    fold_in: FoldIn, user: UserVector, item_rows: npt.ArrayLike, rated_rows: npt.ArrayLike, values: npt.ArrayLike
) -> ScoreParts:
    """What each of the user's ratings adds to the score of each item.

    A_u x_u = c + sum_i g_i is a sum over the ratings, so that

        y_j'x_u = y_j'A_u^-1 c + sum_i y_j'A_u^-1 g_i

    Exact for squared errors; under another loss these are the shares in the parabola around the solution. The user must
    be folded in, or trained, from these very ratings. O(n k^2 + n m k).
    """
    items, rated, ratings = rows(item_rows, "item_rows"), rows(rated_rows, "rated_rows"), vector32(values, "values")
    refuse_rows_outside(rated, fold_in.model.n_items, "rated_rows", unknown_allowed=True)
    if rated.size != ratings.size:
        raise InvalidArray("values", f"need equal lengths, not {rated.size} rows and {ratings.size} values")
    scores = fold_in.scores(user, items)[0].astype(np.float64)
    prior, shares = np.empty(items.size), np.empty((items.size, rated.size))
    if fold_in.model.loss.is_squared:
        decompose_scores(fold_in.kernel_model.record, user.upper, items, rated, ratings, prior, shares)
    else:
        prior, shares = _declared_shares(fold_in, user, items, rated, ratings)
    return ScoreParts(scores, prior, shares, scores - prior - shares.sum(axis=1))


def _declared_shares(
    fold_in: FoldIn, user: UserVector, items: Rows, rated: Rows, ratings: Vector32
) -> tuple[Vector64, Matrix64]:
    model, kernel_model = fold_in.model, fold_in.kernel_model
    evidence = evidence_of(model, kernel_model, rated, ratings)
    listed = evidence_of(model, kernel_model, items, np.zeros(items.size, np.float32))
    z = listed.y @ user.covariance()
    responses = working_responses(model, evidence, user)
    return listed.base + z @ kernel_model.prior_information, z @ (responses[:, None] * evidence.y).T


def largest_shares(shares: Matrix64, n: int, may_be_named: Mask) -> npt.NDArray[np.int64]:
    """For each item the positions of the n ratings with the largest shares by size, largest first.

    Only of ratings that may be named [m]; ties in the order of their positions
    [n_items, min(n, number that may be named)]
    """
    positions = np.empty((shares.shape[0], min(n, int(may_be_named.sum()))), np.int64)
    pick_largest(shares, may_be_named, positions)
    return positions


@njit(void(float64[:, ::1], boolean[::1], int64[:, ::1]), nogil=True, cache=True)
def pick_largest(shares: Matrix64, may_be_named: Mask, positions: npt.NDArray[np.int64]) -> None:
    """The kernel of `largest_shares`; positions are overwritten."""
    n = positions.shape[1]
    for item in range(positions.shape[0]):
        n_picked = 0
        for position in range(shares.shape[1]):
            size = abs(shares[item, position])
            at = n_picked
            while at > 0 and abs(shares[item, positions[item, at - 1]]) < size:
                at -= 1
            if not may_be_named[position] or at == n:
                continue
            n_picked = min(n_picked + 1, n)
            for later in range(n_picked - 1, at, -1):
                positions[item, later] = positions[item, later - 1]
            positions[item, at] = position
