"""The benefit of robust losses if some ratings are noise: MAE on clean ratings after training on noisy ones.

    .venv/bin/python -m benchmarks.robust_losses path/to/ml-latest-small/ratings.csv

A rating is in fold crc32("user,item") mod 5. For each fold 10 % of the ratings of the other four are replaced by
uniform draws from the scale; settings of every loss, the squared one too, are chosen by the MAE on a tenth of those
four, noise included. Then the model is trained on all but the fold, and the clean fold is predicted as the service
does: users folded in, predictions clipped to the scale.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from app.engine.data.ratings import Ratings
from app.engine.evaluation import mae, rmse, split_holdout
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.base import Loss
from app.engine.losses.declare import declare
from app.engine.sgd.local import LocalTrainer
from app.engine.sgd.refit import refit
from benchmarks.engine_folds import by_fold_in, by_trained_vectors, load_folds

NOISE_SHARE = 0.1
REGULARIZATIONS = (0.03, 0.06, 0.1)
CANDIDATES = {
    "squared": [declare("squared")],
    "huber": [declare("huber", parameters={"delta": delta}) for delta in (0.5, 1.0, 1.5)],
    "log_cosh": [declare("log_cosh", parameters={"width": width}) for width in (0.25, 0.5, 1.0)],
}


def with_noise(ratings: Ratings, seed: int) -> Ratings:
    """The ratings with a tenth of them drawn anew, uniformly from the ten half stars."""
    rng = np.random.default_rng(seed)
    values = ratings.values.copy()
    false = rng.choice(len(ratings), int(NOISE_SHARE * len(ratings)), replace=False)
    values[false] = rng.integers(1, 11, false.size) / 2
    return Ratings(ratings.user_rows, ratings.item_rows, values, ratings.n_users, ratings.n_items)


def chosen(name: str, train: Ratings) -> tuple[Loss, Hyperparameters]:
    """The candidate with the lowest MAE on a hold-out of the training ratings."""
    learned, asked = split_holdout(train, 0.1, seed=1)
    fit_on, watched = split_holdout(learned, 0.05, seed=2)
    found: list[tuple[float, Loss, Hyperparameters]] = []
    for loss, regularization in itertools.product(CANDIDATES[name], REGULARIZATIONS):
        settings = Hyperparameters(regularization=regularization, reg_bias=regularization)
        model = LocalTrainer(loss=loss).fit(fit_on, settings, holdout=watched).model
        predicted = by_trained_vectors(model, asked)
        found.append((mae(np.clip(predicted, 0.5, 5.0), asked.values), loss, settings))
    _, loss, settings = min(found, key=lambda each: each[0])
    return loss, settings


def main() -> None:
    ratings, fold_of = load_folds(Path(sys.argv[1]))
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in CANDIDATES}
    for fold in range(5):
        train, test = with_noise(ratings.take(fold_of != fold), seed=fold), ratings.take(fold_of == fold)
        for name in CANDIDATES:
            loss, settings = chosen(name, train)
            learned, holdout = split_holdout(train, settings.holdout_fraction, settings.seed)
            trainer = LocalTrainer(loss=loss)
            fit = refit(trainer, train, settings, trainer.fit(learned, settings, holdout=holdout))
            predicted = np.clip(by_fold_in(fit.model, train, test)[0], 0.5, 5.0)
            measured[name].append((mae(predicted, test.values), rmse(predicted, test.values)))
            parameters = ", ".join(f"{key} {value:g}" for key, value in loss.parameters)
            print(
                f"fold {fold}  {name:9} MAE {measured[name][-1][0]:.4f}  RMSE {measured[name][-1][1]:.4f}"
                f"  regularization {settings.regularization:g}  {parameters}",
                flush=True,
            )
    for name, errors in measured.items():
        by_fold = "  ".join(f"{each:.4f}" for each, _ in errors)
        print(
            f"{name:9} MAE {np.mean([each for each, _ in errors]):.4f} ({by_fold})"
            f"  RMSE {np.mean([each for _, each in errors]):.4f}"
        )


if __name__ == "__main__":
    with threadpool_limits(1):  # small solves are slower on several threads
        main()
