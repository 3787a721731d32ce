"""How good a fit is on ratings that it has not seen, and whether it is good enough to answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from app.engine.arrays import Rows, Vector32, Vector64
from app.engine.data.ratings import Ratings
from app.engine.evaluation import graded_ndcg_at, interval_coverage, mae, ndcg_at, recall_at, rmse
from app.engine.factors import FactorModel
from app.engine.fold_in.fold_in import FoldIn
from app.engine.fold_in.intervals import INTERVAL_LEVEL
from app.engine.losses.base import Loss
from app.engine.losses.catalog import SQUARED
from app.engine.losses.declare import error_tree
from app.engine.losses.evaluate import value_of
from app.engine.retrieval.brute_force import top_n
from app.engine.retrieval.by_relevance import relevance_model, relevance_user
from app.settings import RatingScale

MAX_USERS = 2_000
"""Users that an examination folds in; with more, evenly spaced ones stand for all."""
MAX_SCORES = 100_000_000
"""Item scores that ranking may cost; with more, fewer users are ranked."""
TOP = 10


class Rejected(Exception):
    """The fit is no improvement worth publishing: says why."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """Answers to the hold-out, on the rating scale, one per rating asked."""

    actual: Vector32
    predicted: Vector32
    lower: Vector32
    upper: Vector32

    def errors(self, loss: Loss) -> Vector64:
        """How much larger the declared error is than that of predicting the rating itself."""
        if loss.is_squared:
            return self.squared_errors
        r, tree = self.actual.astype(np.float64), error_tree(loss)
        made, least = (value_of(tree, {"r": r, "r_hat": r_hat.astype(np.float64)}) for r_hat in (self.predicted, r))
        return made - np.where(np.isfinite(least), least, 0.0)

    @property
    def squared_errors(self) -> Vector64:
        errors: Vector64 = (self.predicted.astype(np.float64) - self.actual) ** 2
        return errors


@dataclass(frozen=True, slots=True)
class Questions:
    """The hold-out ratings of some users, in order of users, and all that those users rated besides."""

    asked: Ratings
    known: Ratings

    @classmethod
    def of(cls, train: Ratings, holdout: Ratings) -> Questions:
        """Questions about at most MAX_USERS users, the same ones whenever the ratings are the same."""
        users = evenly(np.unique(holdout.user_rows), MAX_USERS)
        is_asked = np.zeros(holdout.n_users, np.bool_)
        is_asked[users] = True
        return cls(holdout.take(is_asked[holdout.user_rows]), train.take(is_asked[train.user_rows]))

    def users(self) -> list[tuple[slice, slice]]:
        """Each user's places in `asked` and in `known`, which are both sorted by user."""
        rows = np.unique(self.asked.user_rows)
        return list(zip(_slices(self.asked.user_rows, rows), _slices(self.known.user_rows, rows), strict=True))


def answer(model: FactorModel, questions: Questions, scale: RatingScale, model_rows: Rows | None = None) -> Sheet:
    """What the service would answer: each user folded in from the known ratings, then asked about the others.

    `model_rows` gives the model's row of each item row of the questions, -1 where it has none; without it they
    are the same.
    """
    asked, known = questions.asked, questions.known
    asked_rows = asked.item_rows if model_rows is None else model_rows[asked.item_rows]
    known_rows = known.item_rows if model_rows is None else model_rows[known.item_rows]
    fold_in = FoldIn(model)
    values, lower, upper = (np.empty(len(asked), np.float32) for _ in range(3))
    for of_asked, of_known in questions.users():
        rows = asked_rows[of_asked]
        user = fold_in.fold_in(known_rows[of_known], known.values[of_known])
        values[of_asked], variances = fold_in.predict(user, rows)
        lower[of_asked], upper[of_asked] = fold_in.interval(user, rows, values[of_asked], variances)
    return Sheet(asked.values, *(np.clip(part, scale.min, scale.max) for part in (values, lower, upper)))


def measure(model: FactorModel, questions: Questions, sheet: Sheet, scale: RatingScale) -> dict[str, float | int]:
    """Errors by fold-in (what is served) and by the trained vectors, against item means, and ranking measures."""
    asked = questions.asked
    trained = np.clip(model.predict(asked.user_rows, asked.item_rows), scale.min, scale.max)
    measured = {
        "holdout_rmse": rmse(sheet.predicted, sheet.actual),
        "holdout_mae": mae(sheet.predicted, sheet.actual),
        "holdout_rmse_trained_vectors": rmse(trained, asked.values),
        "holdout_mae_trained_vectors": mae(trained, asked.values),
        "holdout_rmse_item_means": rmse(model.item_means[asked.item_rows], asked.values),
        f"holdout_interval_{round(100 * INTERVAL_LEVEL)}_coverage": interval_coverage(
            sheet.actual, sheet.lower, sheet.upper
        ),
        f"ndcg_at_{TOP}_of_rated": _order_of_rated(questions, sheet),
        **_ranking(model, questions),
    }
    return {name: round(value, 6) for name, value in measured.items() if math.isfinite(value)}


def refuse_unless_finite(model: FactorModel) -> None:
    """Raises Rejected when the model holds a number that is none."""
    for name, array in model.arrays().items():
        if not np.isfinite(array).all():
            raise Rejected(f"the fitted model holds numbers that are not finite ({name})")


def refuse_if_worse(sheet: Sheet, active: Sheet, active_version: int, margin: float, loss: Loss = SQUARED) -> None:
    """Raises Rejected when the new fit is clearly worse than the active version's, on the same unseen ratings.

    With e and a the errors of both, worse means that the mean of d = e^2 - (1 + margin)^2 a^2 is above zero by more
    than two standard errors: a few hold-out ratings that happen to suit the old version do not stop a new one. Both are
    judged by what the new one was asked to minimise: of another loss e^2 and a^2 are its errors.
    """
    differences = sheet.errors(loss) - (1.0 + margin) ** 2 * active.errors(loss)
    differences = differences[np.isfinite(differences)]
    if differences.size < 2:
        return
    standard_error = float(differences.std(ddof=1)) / math.sqrt(differences.size)
    if float(differences.mean()) > 2.0 * standard_error:
        raise Rejected(
            f"hold-out error {rmse(sheet.predicted, sheet.actual):.4f} is worse than {_rmse_of(active):.4f} of the "
            f"active version {active_version} on the same {differences.size} ratings, by more than {margin:.1%}"
        )


def evenly(rows: Rows, n: int) -> Rows:
    """At most n of the rows, evenly spaced."""
    if rows.size <= n:
        return rows
    return rows[np.linspace(0, rows.size - 1, n).astype(np.int64)]


def _slices(sorted_rows: Rows, rows: Rows) -> list[slice]:
    starts, ends = np.searchsorted(sorted_rows, rows, "left"), np.searchsorted(sorted_rows, rows, "right")
    return [slice(start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def _rmse_of(sheet: Sheet) -> float:
    return rmse(sheet.predicted, sheet.actual)


def ranked_users(model: FactorModel, questions: Questions) -> Iterator[tuple[Rows, Vector32, Rows]]:
    """Of each user who held out something that they liked: what else they rated, how, and what they liked.

    Liked: rated no lower than the mean of what else the user rated (of everybody's ratings for a user without).
    """
    users = questions.users()
    for place in evenly(np.arange(len(users), dtype=np.int32), MAX_SCORES // model.n_items).tolist():
        of_asked, of_known = users[place]
        values = questions.known.values[of_known]
        liked = questions.asked.values[of_asked] >= (values.mean() if values.size else model.mean_rating)
        relevant = questions.asked.item_rows[of_asked][liked]
        if relevant.size:
            yield questions.known.item_rows[of_known], values, relevant


def _ranking(model: FactorModel, questions: Questions) -> dict[str, float]:
    """Mean recall and nDCG over these users of the top 10 by predicted rating, and of that by relevance."""
    fold_in, ordering = FoldIn(model), relevance_model(model)
    found: list[tuple[float, ...]] = []
    for rated, values, relevant in ranked_users(model, questions):
        user = fold_in.fold_in(rated, values)
        by_value, _ = top_n(model, user, TOP, excluded=rated)
        by_relevance, _ = top_n(ordering, relevance_user(model, user, rated), TOP, excluded=rated)
        found.append(tuple(at(rows, relevant, TOP) for rows in (by_value, by_relevance) for at in (recall_at, ndcg_at)))
    names = [f"{measure}_at_{TOP}{how}" for how in ("", "_by_relevance") for measure in ("recall", "ndcg")]
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True)) if found else {}


def _order_of_rated(questions: Questions, sheet: Sheet) -> float:
    """Mean nDCG of each user's held-out ratings in the order of their predictions: nothing else is ranked."""
    found = [
        graded_ndcg_at(sheet.predicted[of_asked], sheet.actual[of_asked], TOP) for of_asked, _ in questions.users()
    ]
    found = [ndcg for ndcg in found if not math.isnan(ndcg)]
    return float(np.mean(found)) if found else math.nan
