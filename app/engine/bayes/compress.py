"""From the running means of a chain to the model that is served."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from app.engine.arrays import Matrix32, Rows, Vector32, Vector64
from app.engine.bayes.low_rank import LowRank, truncate
from app.engine.data.features import Features
from app.engine.data.popularity import learned_shrinkage
from app.engine.data.ratings import Ratings
from app.engine.data.statistics import count_rows, rating_statistics
from app.engine.factors import FactorModel, Posterior
from app.engine.fold_in.fold_in import FoldIn
from app.engine.fold_in.intervals import LEVELS, N_BUCKETS, calibrated
from app.engine.fold_in.user import UserVector
from app.engine.linalg import Parts, product
from app.engine.retrieval.by_relevance import with_appeal
from app.engine.sgd.user_prior import estimate_user_prior

_ENOUGH = 1e-3
"""Share of the squared predictions, biases apart, that the published rank may leave out."""
_PRIOR_USERS = 500
"""Users whose doubt is averaged for the prior covariance: more would change the third digit."""
_PRIOR_ROUNDS = 4
_ASKED_USERS = 1000
"""Users whose held-out ratings say how far hints and items are trusted, and calibrate intervals."""
_TRUSTS = (0.15, 0.25, 0.35, 0.5, 1.0)
_USUAL_TRUST = 0.5
"""The covariance that is left beside the hints, by its estimate. The estimate takes the items for known, which makes
users look more different from their hints than they are; the hold-out says by how much."""
_CAUTIONS = (1.0, 3.0)
"""The doubt about items, by what it is for the average user."""


@dataclass(frozen=True, slots=True)
class Averages:
    """Means over the samples of a chain; left right' is that of the predictions, less `mean`."""

    mean: float
    left: Matrix32
    right: Matrix32
    noise_variance: float
    item_doubt: Vector64
    """Variance that not knowing an item adds to a rating of it, for the average user."""
    ridge: float
    user_features: Features
    hints: Matrix32
    """What a rating of each item adds to the first features of a user."""
    user_parts: Parts
    item_parts: Parts


class Question(NamedTuple):
    """What one user rated, and what of it was held out."""

    known_rows: Rows
    known_values: Vector32
    item_rows: Rows
    values: Vector32


_Answer = tuple[Question, UserVector, Vector32, Vector32]


def published(
    pool: Executor,
    averages: Averages,
    ratings: Ratings,
    holdout: Ratings | None,
    first: FactorModel | None,
    max_rank: int,
) -> FactorModel:
    """One ordinary model of these means; noise and intervals measured on the hold-out, or those of `first`."""
    summary = rating_statistics(ratings, pool)
    user_counts, item_counts = summary.user_counts, summary.item_counts
    user_bias, item_bias, narrow = _with_biases(pool, averages, user_counts > 0, item_counts > 0, first, max_rank)
    means = summary.item_means
    item_noise = (1.0 + averages.item_doubt / averages.noise_variance).astype(np.float32)
    model = FactorModel(
        mean=averages.mean,
        item_bias=item_bias,
        item_factors=narrow.right,
        user_bias=user_bias,
        user_factors=narrow.left,
        user_prior=estimate_user_prior(user_bias, narrow.left, user_counts, summary.spread**2, pool),
        noise_variance=averages.noise_variance,
        item_counts=item_counts,
        item_means=means,
        user_counts=user_counts,
        popularity_shrinkage=learned_shrinkage(summary.item_counts, means, summary.mean, summary.variance),
        posterior=_with_hints(averages, np.column_stack([user_bias, narrow.left]), user_counts > 0, item_noise),
    )
    model = with_appeal(_with_doubt_of_users(model, ratings), averages.hints, averages.user_features)
    if first is not None:
        return _like(model, first)
    questions = _asked(ratings, holdout)
    return _calibrated(_with_trust(model, questions), questions)


def _with_biases(
    pool: Executor,
    averages: Averages,
    is_user: np.ndarray,
    is_item: np.ndarray,
    first: FactorModel | None,
    max_rank: int,
) -> tuple[Vector32, Vector32, LowRank]:
    """b_u, b_i and p.q with b_u + b_i + p.q = x.y: what the average row of the other side makes of a row is its bias.

    The rank leaves out less than a thousandth of the squares of p.q.
    """
    left_mean = averages.left[is_user].mean(axis=0, dtype=np.float64)
    right_mean = averages.right[is_item].mean(axis=0, dtype=np.float64)
    left, right = averages.left - left_mean.astype(np.float32), averages.right - right_mean.astype(np.float32)
    user_bias = product(pool, averages.user_parts, left, right_mean[:, None])[:, 0]
    item_bias = product(pool, averages.item_parts, averages.right, left_mean[:, None])[:, 0]
    rank = first.n_factors if first is not None else max_rank
    narrow = truncate(pool, left, right, rank, averages.user_parts, averages.item_parts)
    if first is None:
        left_out = 1.0 - np.cumsum(narrow.spectrum**2) / max(float((narrow.spectrum**2).sum()), 1e-300)
        rank = max(min(int(np.searchsorted(-left_out, -_ENOUGH)) + 1, max_rank), 1)
    users, items = (np.ascontiguousarray(side[:, :rank]) for side in (narrow.left, narrow.right))
    return np.ascontiguousarray(user_bias), np.ascontiguousarray(item_bias), LowRank(users, items, narrow.spectrum)


def _with_hints(averages: Averages, users: Matrix32, is_rated: np.ndarray, item_noise: Vector32) -> Posterior:
    """Ridge regression of the users' vectors on their features, as the chain's own link: what the features say of them.

    The features are linear in what a user rated, so the items carry what they add to the prior mean.
    """
    features = averages.user_features
    known, vectors = features.values[is_rated].astype(np.float64), users[is_rated].astype(np.float64)
    centre, feature_centre = vectors.mean(axis=0), known.mean(axis=0)
    d = known.shape[1]
    products = known.T @ (vectors - centre)
    link = np.linalg.solve(known.T @ known + averages.ridge * np.eye(d), products)
    rest = vectors - centre - (known - feature_centre) @ link
    raw_link = link / features.spread[:, None]
    n_directions = averages.hints.shape[1]
    return Posterior(
        item_noise=item_noise,
        item_hints=np.ascontiguousarray(averages.hints @ raw_link[:n_directions], np.float32),
        count_hint=raw_link[n_directions].copy(),
        hint_base=centre - features.centre @ raw_link - feature_centre @ link,
        hinted_covariance=rest.T @ rest / max(known.shape[0], 1),
        reach=np.zeros(len(LEVELS)),
        user_widening=np.ones(N_BUCKETS),
        item_widening=np.ones(N_BUCKETS),
        trust=np.ones(2),
        item_appeal=np.zeros((item_noise.size, 0), np.float32),
        usual_interest=np.zeros(0),
    )


def _with_doubt_of_users(model: FactorModel, ratings: Ratings) -> FactorModel:
    """Prior covariances that count what is not known of each user: cov(x_u - m_u) + mean A_u^-1.

    A_u depends on the prior, so this is repeated: the covariance step of expectation maximisation.
    """
    assert model.posterior is not None
    spread, crowd = model.posterior.hinted_covariance, model.user_prior
    users = evenly_spaced(np.flatnonzero(model.user_counts > 0), _PRIOR_USERS)
    for _ in range(_PRIOR_ROUNDS):
        fold_in, doubt = FoldIn(model), np.zeros_like(spread)
        for user_row in users.tolist():
            of_user = ratings.of_user(user_row)
            doubt += fold_in.fold_in(ratings.item_rows[of_user], ratings.values[of_user]).covariance()
        doubt /= max(users.size, 1)
        posterior = dataclasses.replace(model.posterior, hinted_covariance=spread + doubt)
        prior = dataclasses.replace(crowd, covariance=crowd.covariance + doubt)
        model = dataclasses.replace(model, posterior=posterior, user_prior=prior)
    return model


def _with_trust(model: FactorModel, questions: list[Question]) -> FactorModel:
    """How much to believe hints and doubt items: what predicts the hold-out best by folding in."""
    candidates = itertools.product(_TRUSTS if questions else (_USUAL_TRUST,), _CAUTIONS if questions else (1.0,))
    models = [_trusting(model, trust, caution) for trust, caution in candidates]
    return min(models, key=lambda candidate: _squared_error(candidate, questions))


def _trusting(model: FactorModel, trust: float, caution: float) -> FactorModel:
    posterior = model.posterior
    assert posterior is not None
    return _with(
        model,
        hinted_covariance=trust * posterior.hinted_covariance,
        item_noise=(1.0 + caution * (posterior.item_noise - 1.0)).astype(np.float32),
        trust=np.array([trust, caution]),
    )


def _with(model: FactorModel, **changes: Any) -> FactorModel:
    assert model.posterior is not None
    return dataclasses.replace(model, posterior=dataclasses.replace(model.posterior, **changes))


def _squared_error(model: FactorModel, questions: list[Question]) -> float:
    return sum(
        float(((question.values - predicted) ** 2).sum()) for question, _, predicted, _ in _answers(model, questions)
    )


def _calibrated(model: FactorModel, questions: list[Question]) -> FactorModel:
    """Intervals that hold the share of the hold-out that they promise; Gaussian ones without a hold-out."""
    if not questions:
        gaussian = [statistics.NormalDist().inv_cdf(0.5 + min(level, 0.999) / 2) for level in LEVELS]
        return _with(model, reach=np.array(gaussian))
    deviations, user_counts, item_counts = [], [], []
    for question, side, predicted, variances in _answers(model, questions):
        deviations.append(np.abs(question.values - predicted) / np.sqrt(variances))
        user_counts.append(np.full(predicted.size, side.n_ratings))
        item_counts.append(model.item_counts[question.item_rows])
    measured = calibrated(*map(np.concatenate, (deviations, user_counts, item_counts)))
    return _with(model, **measured._asdict())


def _like(model: FactorModel, first: FactorModel) -> FactorModel:
    """Trusting and calibrated as the first fit: only ratings that were held out can tell."""
    measured = first.posterior
    assert measured is not None
    return _with(
        _trusting(model, *measured.trust.tolist()),
        reach=measured.reach,
        user_widening=measured.user_widening,
        item_widening=measured.item_widening,
    )


def _asked(ratings: Ratings, holdout: Ratings | None) -> list[Question]:
    """The held-out ratings of at most so many users; nobody's without a hold-out."""
    if holdout is None or not len(holdout):
        return []
    users = evenly_spaced(np.flatnonzero(count_rows(holdout.user_rows, holdout.n_users)), _ASKED_USERS)
    questions = []
    for user_row in users.tolist():
        known, asked = ratings.of_user(user_row), holdout.of_user(user_row)
        questions.append(
            Question(
                *(ratings.item_rows[known], ratings.values[known]), *(holdout.item_rows[asked], holdout.values[asked])
            )
        )
    return questions


def _answers(model: FactorModel, questions: list[Question]) -> Iterator[_Answer]:
    """Of each question the user, the predictions and their variances."""
    fold_in = FoldIn(model)
    for question in questions:
        side = fold_in.fold_in(question.known_rows, question.known_values)
        yield question, side, *fold_in.predict(side, question.item_rows)


def evenly_spaced(rows: np.ndarray, n: int) -> np.ndarray:
    """At most n of the rows."""
    return rows if rows.size <= n else rows[np.linspace(0, rows.size - 1, n).astype(np.int64)]
