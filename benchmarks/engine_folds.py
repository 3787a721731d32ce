"""RMSE of the engine on the five fixed folds of ml-latest-small, with default hyperparameters.

    python benchmarks/engine_folds.py path/to/ratings.csv

A rating is in fold crc32("user,item") mod 5. For each fold, the other four are trained like a published version (fit
on 95 %, best epoch, refit on all), and the fold is predicted in two ways: with the trained vectors of its users, and by
folding in every user from the training ratings. Items without training ratings are predicted too; predictions are
clipped to the scale, 0.5 to 5.
"""

import sys
import time
import zlib
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from app.engine.arrays import Vector32
from app.engine.data.ratings import Ratings, Vocabulary
from app.engine.evaluation import interval_coverage, rmse, split_holdout
from app.engine.factors import FactorModel
from app.engine.fold_in.fold_in import FoldIn
from app.engine.fold_in.intervals import gaussian_interval
from app.engine.hyperparameters import Hyperparameters
from app.engine.sgd.local import LocalTrainer
from app.engine.sgd.refit import refit


def load_folds(path: Path) -> tuple[Ratings, np.ndarray]:
    """All ratings and the fold of each, in the order of the ratings."""
    lines = [line.split(",") for line in path.read_text().splitlines()[1:] if line]
    user_ids, item_ids = [line[0] for line in lines], [line[1] for line in lines]
    users, items = Vocabulary.of(user_ids), Vocabulary.of(item_ids)
    ratings = Ratings.of(
        users.rows_of(user_ids),
        items.rows_of(item_ids),
        [float(line[2]) for line in lines],
        n_users=len(users),
        n_items=len(items),
    )
    pairs = zip(users.ids_of(ratings.user_rows), items.ids_of(ratings.item_rows), strict=True)
    return ratings, np.array([zlib.crc32(f"{user},{item}".encode()) % 5 for user, item in pairs])


def by_fold_in(model: FactorModel, train: Ratings, test: Ratings) -> tuple[Vector32, Vector32]:
    """Predictions of the test ratings and their variances, every user folded in from the training ratings."""
    fold_in = FoldIn(model)
    predicted, variances = np.empty(len(test), np.float32), np.empty(len(test), np.float32)
    for user_row in np.unique(test.user_rows).tolist():
        seen, asked = train.of_user(user_row), test.of_user(user_row)
        user = fold_in.fold_in(train.item_rows[seen], train.values[seen])
        predicted[asked], variances[asked] = fold_in.predict(user, test.item_rows[asked])
    return predicted, variances


def by_trained_vectors(model: FactorModel, test: Ratings) -> Vector32:
    """Predictions of the test ratings by the vectors that SGD gave their users."""
    return model.predict(test.user_rows, test.item_rows)


def clipped_rmse(predicted: Vector32, test: Ratings) -> float:
    """RMSE of the predictions clipped to the scale of MovieLens."""
    return rmse(np.clip(predicted, 0.5, 5.0), test.values)


def main() -> None:
    ratings, fold_of = load_folds(Path(sys.argv[1]))
    settings, trainer = Hyperparameters(), LocalTrainer()
    print("fold  epochs  seconds  trained  fold-in  unknown items  90 % interval covers")
    errors = []
    for fold in range(5):
        train, test = ratings.take(fold_of != fold), ratings.take(fold_of == fold)
        started = time.perf_counter()
        learned, holdout = split_holdout(train, settings.holdout_fraction, settings.seed)
        fit = refit(trainer, train, settings, trainer.fit(learned, settings, holdout=holdout))
        seconds = time.perf_counter() - started
        predicted, variances = by_fold_in(fit.model, train, test)
        unknown = fit.model.item_counts[test.item_rows] == 0
        covered = interval_coverage(test.values, *gaussian_interval(predicted, variances, 0.9))
        errors.append((clipped_rmse(by_trained_vectors(fit.model, test), test), clipped_rmse(predicted, test)))
        strangers = clipped_rmse(predicted[unknown], test.take(unknown))
        print(
            f"{fold:4}  {fit.best_epoch:6}  {seconds:7.2f}  {errors[-1][0]:7.4f}  {errors[-1][1]:7.4f}"
            f"  {strangers:7.4f} ({unknown.mean():.1%})  {covered:.3f}"
        )
    trained, folded = np.mean(errors, axis=0)
    print(f"mean                   {trained:7.4f}  {folded:7.4f}")


if __name__ == "__main__":
    with threadpool_limits(1):  # small solves are slower on several threads
        main()
