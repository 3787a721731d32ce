"""The service's model for ratings in memory: fit, then predict and recommend by outside ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from app.engine.arrays import InvalidArray, Vector32, Vector64
from app.engine.data.ratings import Ratings, Vocabulary
from app.engine.evaluation import split_holdout
from app.engine.factors import FactorModel
from app.engine.fold_in.fold_in import FoldIn
from app.engine.hyperparameters import Hyperparameters
from app.engine.library.coerce import triples_of
from app.engine.losses.base import Link, Loss
from app.engine.losses.declare import declare
from app.engine.retrieval.brute_force import top_n
from app.engine.sgd.local import LocalTrainer
from app.engine.sgd.refit import refit
from app.engine.sgd.trainer import Fit, NoRatings

MIN_HOLDOUT = 20
"""Fewer held-out ratings cannot choose the best epoch; then every rating is learned at once."""


@dataclass(frozen=True, slots=True)
class FittedModel:
    """A model of biases and factors with outside ids. Unknown users and items are average."""

    model: FactorModel
    ratings: Ratings
    users: Vocabulary
    items: Vocabulary
    holdout_fit: Fit | None
    """The fit that was evaluated on the hold-out, with its epochs; None if there were too few ratings for one."""

    def predict(self, user: object, item: object) -> float:
        """The predicted rating of this item by this user."""
        return float(self.predict_many([user], [item])[0])

    def predict_many(self, users: Sequence[object], items: Sequence[object]) -> Vector64:
        """Predicted ratings of pairs."""
        if len(users) != len(items):
            raise InvalidArray("users and items", f"need equal lengths, not {len(users)} and {len(items)}")
        model, average_user = self.model, self.model.user_prior.mean
        user_rows, item_rows = self.users.rows_of(list(map(str, users))), self.items.rows_of(list(map(str, items)))
        user_bias, p = _sides(user_rows, model.user_bias, model.user_factors, average_user[0], average_user[1:])
        item_bias, q = _sides(item_rows, model.item_bias, model.item_factors, model.item_bias.mean(), np.zeros(1))
        return model.loss.rating_of(model.mean + user_bias + item_bias + np.einsum("nk,nk->n", p, q))

    def recommend(self, user: object, n: int = 10) -> list[tuple[str, float]]:
        """The n items with the highest predicted ratings that the user has not rated, best first."""
        fold_in = FoldIn(self.model)
        row = self.users.row_of(str(user))
        rated = self.ratings.of_user(row) if row is not None else slice(0, 0)
        item_rows, values = self.ratings.item_rows[rated], self.ratings.values[rated]
        folded = fold_in.fold_in(item_rows, values)
        chosen, _ = top_n(self.model, folded, n, excluded=item_rows)
        predicted, _ = fold_in.predict(folded, chosen)
        return list(zip(self.items.ids_of(chosen), predicted.astype(float).tolist(), strict=True))


def fit(
    ratings: Any,
    *,
    loss: str | Loss = "squared",
    penalty: str = "l2",
    link: Link | None = None,
    parameters: Mapping[str, float] | None = None,
    n_threads: int | None = None,
    **hyperparameters: Any,
) -> FittedModel:
    """Learns biases and factors as the service does: finds the best epoch on a hold-out, then learns all ratings.

    ratings: (user, item, value) triples, a pandas or Polars table, a masked array or an array with NaN, or a SciPy
    sparse matrix, whose positions are the ids. loss, penalty, link and parameters are those of `declare`, unless loss
    is a Loss; its rating range is that of the values. Hyperparameters are those of
    `Hyperparameters`: n_factors, n_epochs, learning_rate, regularization, seed, ... Raises InvalidArray, InvalidLoss,
    InvalidHyperparameter, NoRatings, Diverged.
    """
    chosen = Hyperparameters.from_dict(hyperparameters)
    user_ids, item_ids, values = triples_of(ratings)
    if not user_ids:
        raise NoRatings
    users, items = Vocabulary.of(user_ids), Vocabulary.of(item_ids)
    user_rows, item_rows = users.rows_of(user_ids), items.rows_of(item_ids)
    _refuse_repeated(user_rows.astype(np.int64) * len(items) + item_rows, user_ids, item_ids)
    known = Ratings.of(user_rows, item_rows, values, n_users=len(users), n_items=len(items))
    low, high = float(values.min()), float(values.max())
    if isinstance(loss, str):
        ends = (low, high) if low < high else None
        loss = declare(loss, penalty=penalty, link=link, parameters=parameters, rating_range=ends)
    trainer = LocalTrainer(n_threads, loss=loss)
    learned, held_out = split_holdout(known, chosen.holdout_fraction, chosen.seed)
    with threadpool_limits(1):  # a fit brings its own threads; small solves are slower on several
        if len(held_out) < MIN_HOLDOUT:
            return FittedModel(trainer.fit(known, chosen).model, known, users, items, None)
        holdout_fit = trainer.fit(learned, chosen, holdout=held_out)
        return FittedModel(refit(trainer, known, chosen, holdout_fit).model, known, users, items, holdout_fit)


def _refuse_repeated(pairs: np.ndarray, user_ids: Sequence[str], item_ids: Sequence[str]) -> None:
    _, first, counts = np.unique(pairs, return_index=True, return_counts=True)
    if (counts > 1).any():
        at = int(first[np.argmax(counts > 1)])
        raise InvalidArray("ratings", f"hold a rating of {item_ids[at]!r} by {user_ids[at]!r} more than once")


def _sides(
    rows: np.ndarray, bias: Vector32, factors: np.ndarray, average_bias: float, average_factors: Vector64
) -> tuple[Vector64, np.ndarray]:
    """Bias and vector of each row, in float64; the average ones for rows below zero."""
    is_known = rows >= 0
    known_bias, known_factors = bias[rows].astype(np.float64), factors[rows].astype(np.float64)
    return np.where(is_known, known_bias, average_bias), np.where(is_known[:, None], known_factors, average_factors)
