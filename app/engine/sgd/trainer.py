"""The interface of trainers, and the reports and errors of a fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from app.engine.arrays import Matrix32, Vector32
from app.engine.data.ratings import Ratings
from app.engine.factors import FactorModel
from app.engine.hyperparameters import Hyperparameters


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One pass over the ratings. train_rmse is measured during the epoch, each rating just before its own step."""

    epoch: int
    """Counted from 1."""
    n_epochs: int
    learning_rate: float
    train_rmse: float
    holdout_rmse: float | None
    ratings_per_second: float
    holdout_error: float | None = None
    """Mean declared error of the hold-out, by which the best epoch is then chosen; None for squared errors."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The model of the best epoch: lowest hold-out error as declared, or the last epoch where there is no hold-out."""

    model: FactorModel
    epochs: tuple[EpochReport, ...]
    best_epoch: int
    layout_seconds: float = 0.0
    """Time to arrange the ratings in the order in which they are learned."""

    @property
    def best(self) -> EpochReport:
        """The report of the best epoch."""
        return self.epochs[self.best_epoch - 1]


@dataclass(frozen=True, slots=True)
class WarmStart:
    """The parameters that a fit starts from instead of random vectors, and which of its ratings it learns.

    Vectors and biases are those of a model, one for each row; `ratings_to_learn` are over the same rows.
    """

    mean: float
    noise_variance: float
    user_factors: Matrix32
    item_factors: Matrix32
    user_bias: Vector32
    item_bias: Vector32
    ratings_to_learn: Ratings


class Trainer(Protocol):
    """Fits factors to ratings. The same ratings, hyperparameters and seed give the same model bit by bit."""

    def fit(
        self,
        ratings: Ratings,
        hyperparameters: Hyperparameters,
        *,
        holdout: Ratings | None = None,
        start: WarmStart | None = None,
        on_epoch: Callable[[EpochReport], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> Fit:
        """Raises Diverged when the error explodes, FitCancelled soon after is_cancelled says yes, NoRatings on none.

        holdout ratings lie over the same rows, are never learned from, and choose the best epoch. A warm start is part
        of what the model depends on.
        """


class Diverged(Exception):
    """The error exploded; carries what happened, when, and at which step size."""

    def __init__(self, *, epoch: int, learning_rate: float, reason: str) -> None:
        super().__init__(
            f"training diverged in epoch {epoch} at learning rate {learning_rate:g}: {reason}; "
            "try a lower learning_rate or more regularization"
        )
        self.epoch = epoch
        self.learning_rate = learning_rate
        self.reason = reason


class FitCancelled(Exception):
    """The fit was cancelled before a model was complete."""

    def __init__(self, *, epoch: int) -> None:
        super().__init__(f"training was cancelled in epoch {epoch}")
        self.epoch = epoch


class NoRatings(ValueError):
    """There is nothing to learn from."""

    def __init__(self) -> None:
        super().__init__("there are no ratings to train on")
