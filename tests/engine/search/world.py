"""A small world to search in, and made-up trials."""

import numpy as np

from app.engine.data.ratings import Ratings
from app.engine.evaluation import split_holdout
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.base import Loss
from app.engine.recipe import Recipe
from app.engine.search.space import parse_space
from app.engine.search.trials import Trial
from app.engine.sgd.local import LocalTrainer
from tests.conftest import KERNELS
from tests.training.world import ratings_of

BASE = Hyperparameters(n_factors=4, n_epochs=10, reg_bias=0.11)
RECIPE = Recipe(BASE, rating_range=(0.5, 5.0))
SPACE = parse_space(
    {
        "learning_rate": {"low": 0.01, "high": 0.2, "log": True},
        "n_factors": {"low": 2, "high": 16},
        "schedule": {"choices": ["linear", "constant"]},
        "reg_bias": {"low": 0.01, "high": 0.36, "step": 0.1},
    }
)
LOSS_SPACE = {
    "loss": {"choices": ["squared", "huber", "logistic", "(r - r_hat)**2 / d"]},
    "loss.delta": {"low": 0.3, "high": 3, "log": True},
}


def trial(number: int, value: float | None, curve: tuple[float, ...] = (), **parameters: object) -> Trial:
    values = parameters or {
        "learning_rate": 0.01 + 0.001 * number,
        "n_factors": 4,
        "schedule": "linear",
        "reg_bias": 0.01,
    }
    return Trial(number, values, "failed" if value is None else "complete", value, 1.0, curve)  # type: ignore[arg-type]


def trainer_of(loss: Loss) -> LocalTrainer:
    return LocalTrainer(1, KERNELS, loss)


def world() -> Ratings:
    stored = ratings_of()
    users = [int(each.user_id.removeprefix("user-")) for each in stored]
    items = [int(each.item_id.removeprefix("item-")) for each in stored]
    return Ratings.of(users, items, [each.value for each in stored], n_users=60, n_items=40)


def random_folds(ratings: Ratings, n_folds: int, fraction: float, seed: int) -> list[tuple[Ratings, Ratings]]:
    """One hold-out of this fraction, or n_folds parts of which each is held out once."""
    if n_folds == 1:
        return [split_holdout(ratings, fraction, seed)]
    fold_of = np.random.default_rng(seed).permutation(len(ratings)) % n_folds
    return [(ratings.take(fold_of != fold), ratings.take(fold_of == fold)) for fold in range(n_folds)]
