"""Why an item: what each rating of a user adds to its score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import boolean, float64, int64, njit, void

from app.engine.arrays import Mask, Matrix64, Vector64
from app.engine.fold_in.fold_in import FoldIn
from app.engine.fold_in.user import UserVector


@dataclass(frozen=True, slots=True)
class Explanation:
    """score_j = prior_j + sum_i shares_ji + learned_j, of n items for a user with m ratings.

    scores, prior, learned [n]   shares [n, m]: what rating i adds to the score of item j. Scores are before the link of
    the loss and not clipped to any scale.
    """

    scores: Vector64
    prior: Vector64
    """What nobody's rating says: the mean, the item's bias and the crowd's taste, as far as the ratings leave it."""
    shares: Matrix64
    learned: Vector64
    """What a trained vector knows beyond these shares; where the user was folded in, rounding."""


def explain(
    fold_in: FoldIn, user: UserVector, item_rows: npt.ArrayLike, rated_rows: npt.ArrayLike, values: npt.ArrayLike
) -> Explanation:
    """What each of the user's ratings adds to the score of each item.

    The solve A_u x_u = c + sum_i g_i is linear in what the ratings pull (see `FoldIn.shares`), so that

        y_j'x_u = y_j'A_u^-1 c + sum_i y_j'A_u^-1 g_i

    exactly for squared errors; of other losses these are the shares in the parabola around the solution. The user must
    be folded in, or trained, from these very ratings. O(n k^2 + n m k).
    """
    prior, shares = fold_in.shares(user, item_rows, rated_rows, values)
    scores = fold_in.scores(user, item_rows)[0].astype(np.float64)
    return Explanation(scores, prior, shares, scores - prior - shares.sum(axis=1))


def largest_shares(shares: Matrix64, n: int, may_be_named: Mask) -> npt.NDArray[np.int64]:
    """Of each item the places of the n ratings that add or take most, of those that may be named [m], largest first.

    Equal ones in the order of their places   [n_items, min(n, how many may be named)]
    """
    places = np.empty((shares.shape[0], min(n, int(may_be_named.sum()))), np.int64)
    pick_largest(shares, may_be_named, places)
    return places


@njit(void(float64[:, ::1], boolean[::1], int64[:, ::1]), nogil=True, cache=True)
def pick_largest(shares: Matrix64, may_be_named: Mask, places: npt.NDArray[np.int64]) -> None:
    """The kernel of `largest_shares`; places are overwritten."""
    n = places.shape[1]
    for item in range(places.shape[0]):
        n_picked = 0
        for place in range(shares.shape[1]):
            size = abs(shares[item, place])
            at = n_picked
            while at > 0 and abs(shares[item, places[item, at - 1]]) < size:
                at -= 1
            if not may_be_named[place] or at == n:
                continue
            n_picked = min(n_picked + 1, n)
            for later in range(n_picked - 1, at, -1):
                places[item, later] = places[item, later - 1]
            places[item, at] = place
