"""The order of a list: what a user would like, among what the user would come across.

A predicted rating says how an item would be liked if it were tried. A list ordered by it alone is full of what hardly
anybody ever tries: which items are rated is another question than how (Marlin & Zemel 2009). What users choose is known
too, from who rated what, and the leading singular vectors v_i of that (see `data.features`) tell it with the same
kind of product (PureSVD: Cremonesi, Koren & Turrin 2010):

    relevance = r_hat + z_u.a_i
    a_i = s (c_i + d)^1/2 v_i        z_u = (n_u + d)^-1/2 (d^1/2 z + sum_i a_i / (c_i + d))

over the items i that u rated; c_i and n_u count ratings, d = DAMPING, z is what is usual: somebody without ratings gets
what is rated much and well. s makes the second part differ between the items of a list by SHARE of what the first does.
So relevance is the prediction of an ordinary model with more columns, and whatever finds the best items finds these.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from app.engine.arrays import Counts, Matrix32, Rows, Vector32
from app.engine.data.features import DAMPING, Features
from app.engine.factors import FactorModel, Posterior
from app.engine.fold_in.user import UserVector
from app.engine.retrieval.brute_force import best_rows
from app.engine.retrieval.brute_force_kernels import score_items

DIRECTIONS = 16
"""Columns of the second part: 8 find less, 32 no more (docs/accuracy.md)."""
SHARE = 0.5
_SAMPLE = 5_000
"""Users and items whose differences are measured: more would not change the second digit."""


def relevance_model(model: FactorModel) -> FactorModel:
    """The model whose predictions are relevances, for users of `relevance_user`; itself where appeal is not known."""
    posterior = model.posterior
    if posterior is None or not posterior.usual_interest.size:
        return model
    return dataclasses.replace(model, item_factors=np.hstack([model.item_factors, posterior.item_appeal]))


def relevance_user(model: FactorModel, user: UserVector, item_rows: Rows) -> UserVector:
    """The user of these ratings before `relevance_model(model)`: for the order of items, not for variances."""
    posterior = model.posterior
    if posterior is None or not posterior.usual_interest.size:
        return user
    return dataclasses.replace(user, factors=np.concatenate([user.factors, _interest(model, posterior, item_rows)]))


def best_by_relevance(
    model: FactorModel, user: UserVector, n: int, *, rated: Rows, excluded: Rows, candidates: Rows | None = None
) -> tuple[Rows, Vector32]:
    """The n most relevant items for the user of these rated rows (-1: unknown), best first, with their relevance.

    By the prediction alone where appeal is not known. Every item is scored: O(n_items (k + DIRECTIONS)).
    """
    scores, posterior = np.empty(model.n_items, np.float32), model.posterior
    score_items(user.factors, model.mean + user.bias, model.item_factors, model.item_bias, scores)
    if posterior is not None and posterior.usual_interest.size:
        scores += posterior.item_appeal @ _interest(model, posterior, rated)
    return best_rows(scores, n, excluded=excluded, candidates=candidates)


def _interest(model: FactorModel, posterior: Posterior, item_rows: Rows) -> Vector32:
    """z_u of whoever rated these."""
    known = item_rows[item_rows >= 0]
    weights = 1.0 / (model.item_counts[known] + np.float32(DAMPING))
    interest = np.sqrt(DAMPING) * posterior.usual_interest + weights @ posterior.item_appeal[known]
    found: Vector32 = (interest / np.sqrt(known.size + DAMPING)).astype(np.float32)
    return found


def with_appeal(model: FactorModel, hints: Matrix32, of_users: Features) -> FactorModel:
    """The model with what users come across.

    hints [n_items, D]: what a rating of each item adds to the directions of a user (see `who_rated_what`), the leading
    ones first   of_users: the directions of users, and what follows them
    """
    assert model.posterior is not None
    leading = hints[:, :DIRECTIONS]
    appeal = leading * (model.item_counts + np.float32(DAMPING))[:, None]
    centre, spread = (part[: leading.shape[1]] for part in (of_users.centre, of_users.spread))
    users, items = (_some(counts) for counts in (model.user_counts, model.item_counts))
    interests = of_users.values[users, : leading.shape[1]] * np.where(np.isfinite(spread), spread, 0.0) + centre
    tastes = np.column_stack([np.ones(users.size), model.user_factors[users]])
    predicted = _spread(tastes, np.column_stack([model.item_bias[items], model.item_factors[items]]))
    chosen = _spread(interests, appeal[items])
    scale = np.sqrt(SHARE * predicted / chosen) if chosen > 0 else 0.0
    posterior = dataclasses.replace(
        model.posterior, item_appeal=(scale * appeal).astype(np.float32), usual_interest=scale * centre
    )
    return dataclasses.replace(model, posterior=posterior)


def _some(counts: Counts) -> npt.NDArray[np.intp]:
    """Rows with ratings, fewer than twice _SAMPLE."""
    rated = np.flatnonzero(counts)
    return rated[:: max(1, rated.size // _SAMPLE)]


def _spread(left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]) -> float:
    """Root mean square, over left rows x, of the standard deviation of x.y over right rows y."""
    centred = right - right.mean(axis=0, dtype=np.float64)
    covariance = centred.T @ centred / max(right.shape[0], 1)
    return float(np.sqrt(np.einsum("na,ab,nb->n", left, covariance, left).mean()))
