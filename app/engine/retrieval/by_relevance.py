"""The default order of a list: what a user would like, among what the user would come across.

A predicted rating says how an item would be liked if it were tried. A list ordered by it alone is full of items that
hardly anybody tries: which items are rated is another question than how (Marlin & Zemel 2009). The leading singular
vectors v_i of who rated what (`app.engine.data.features`) predict exposure by the same kind of product (PureSVD:
Cremonesi, Koren & Turrin 2010):

    relevance = r_hat + z_u.a_i
    a_i = s (c_i + d)^1/2 v_i        z_u = (n_u + d)^-1/2 (d^1/2 z + sum_i a_i / (c_i + d))

over the items i that u rated. a_i are exposure_factors; z is prior_exposure, that of the average user, so that a user
without ratings gets what is rated often and well; c_i and n_u count ratings, d = DAMPING. s makes the standard
deviation of the second part over the items SHARE of that of the first. Relevance is thus the prediction of a factor
model with more columns.
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
from app.engine.retrieval.retriever import RankedRows

DIRECTIONS = 16
"""Columns of the exposure: 8 are worse, 32 no better (docs/accuracy.md)."""
SHARE = 0.5
_SAMPLE = 5_000
"""Users and items over which standard deviations are taken: more would not change the second digit."""


def relevance_model(model: FactorModel) -> FactorModel:
    """The model whose predictions are relevances, for users of `relevance_user`; itself if it is no average."""
    if model.posterior is None:
        return model
    factors = np.hstack([model.item_factors, model.posterior.exposure_factors])
    return dataclasses.replace(model, item_factors=factors)


def relevance_user(model: FactorModel, user: UserVector, item_rows: Rows) -> UserVector:
    """The user of these ratings for `relevance_model(model)`: good for the order of items, not for variances."""
    if model.posterior is None:
        return user
    exposure = _user_exposure(model, model.posterior, item_rows)
    return dataclasses.replace(user, factors=np.concatenate([user.factors, exposure]))


def best_by_relevance(
    model: FactorModel, user: UserVector, n: int, *, rated: Rows, excluded: Rows, candidates: Rows | None = None
) -> RankedRows:
    """The n most relevant items for the user of these rated rows (-1: unknown), best first, with their relevance.

    By the prediction alone if the model is no average. Scores every item: O(n_items (k + DIRECTIONS)).
    """
    scores = np.empty(model.n_items, np.float32)
    score_items(user.factors, model.mean + user.bias, model.item_factors, model.item_bias, scores)
    if model.posterior is not None:
        scores += model.posterior.exposure_factors @ _user_exposure(model, model.posterior, rated)
    return best_rows(scores, n, excluded=excluded, candidates=candidates)


def _user_exposure(model: FactorModel, posterior: Posterior, item_rows: Rows) -> Vector32:
    """z_u of the user who rated these."""
    known = item_rows[item_rows >= 0]
    weights = 1.0 / (model.item_counts[known] + np.float32(DAMPING))
    total = np.sqrt(DAMPING) * posterior.prior_exposure + weights @ posterior.exposure_factors[known]
    exposure: Vector32 = (total / np.sqrt(known.size + DAMPING)).astype(np.float32)
    return exposure


def with_exposure(model: FactorModel, projection: Matrix32, user_features: Features) -> FactorModel:
    """The model, an average, with exposure_factors and prior_exposure set.

    projection [n_items, D]: from rated items to the directions of a user (see `who_rated_what`), leading ones first
    user_features: directions first
    """
    assert model.posterior is not None
    leading = projection[:, :DIRECTIONS]
    factors = leading * (model.item_counts + np.float32(DAMPING))[:, None]
    centre, spread = (part[: leading.shape[1]] for part in (user_features.centre, user_features.spread))
    users, items = (_some(counts) for counts in (model.user_counts, model.item_counts))
    exposures = user_features.values[users, : leading.shape[1]] * np.where(np.isfinite(spread), spread, 0.0) + centre
    user_vectors = np.column_stack([np.ones(users.size), model.user_factors[users]])
    predicted = _spread(user_vectors, np.column_stack([model.item_bias[items], model.item_factors[items]]))
    exposed = _spread(exposures, factors[items])
    scale = np.sqrt(SHARE * predicted / exposed) if exposed > 0 else 0.0
    posterior = dataclasses.replace(
        model.posterior, exposure_factors=(scale * factors).astype(np.float32), prior_exposure=scale * centre
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
