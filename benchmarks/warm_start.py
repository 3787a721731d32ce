"""A warm fit after 1 % new ratings, compared with a cold fit of the same ratings.

    .venv/bin/python -m benchmarks.warm_start [S1|S20] [--threads 2] [--chain 5] [--share 1.0]

New ratings are drawn at random; a tenth of them are of users, and a tenth of items, that the model does not know. Both
fits are trained on the training set and evaluated on the test set. With --chain, that many warm fits follow each other,
each with 1 % more ratings, and the last one is compared with a cold fit of all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

from app.engine.data.ratings import Ratings
from app.engine.evaluation import rmse
from app.engine.factors import FactorModel
from app.engine.hyperparameters import Hyperparameters
from app.engine.sgd.local import LocalTrainer
from app.engine.sgd.trainer import Fit
from app.engine.sgd.warm_start import carry_over, sample, warm_hyperparameters
from benchmarks.datasets import NAMES, Part, data_set

NEW_SHARE = 0.01
ROUNDS = 7
CHOSEN = Hyperparameters()


def _ratings(part: Part, n_users: int, n_items: int) -> Ratings:
    return Ratings(part.users, part.items, part.values, n_users, n_items)


def arrival(ratings: Ratings, n_steps: int) -> np.ndarray:
    """Step at which each rating comes: 0 for those of the first model, then 1 % of all at each."""
    random = np.random.default_rng(7)
    n_new = int(NEW_SHARE * len(ratings))
    step = np.zeros(len(ratings), np.int8)
    for number in range(1, n_steps + 1):
        for rows, n_rows in ((ratings.user_rows, ratings.n_users), (ratings.item_rows, ratings.n_items)):
            order = random.permutation(n_rows)
            counts = np.bincount(rows[step == 0], minlength=n_rows)[order]
            newcomers = order[: int(np.searchsorted(np.cumsum(counts), n_new // 10))]
            is_new = np.zeros(n_rows, np.bool_)
            is_new[newcomers] = True
            step[is_new[rows] & (step == 0)] = number
        left = np.flatnonzero(step == 0)
        step[random.choice(left, max(0, n_new - int((step == number).sum())), replace=False)] = number
    return step


def timed(label: str, fit: Callable[[], Fit], test: Ratings, rounds: int) -> tuple[Fit, float, float]:
    """The fit, its median seconds, and its error on the test part; prints a line."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        found = fit()
        seconds.append(time.perf_counter() - started)
    error = rmse(found.model.predict(test.user_rows, test.item_rows), test.values)
    print(
        f"{label:28}{statistics.median(seconds):8.3f} s (layout {found.layout_seconds:.3f}) "
        f"{len(found.epochs):3} epochs, test RMSE {error:.5f}   load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return found, statistics.median(seconds), error


def _rows(known: Ratings, n_rows: int, is_user: bool) -> np.ndarray:
    """Row of each row in a model of `known`, whose rows are the same: -1 for those without ratings there."""
    counts = np.bincount(known.user_rows if is_user else known.item_rows, minlength=n_rows)
    return np.where(counts > 0, np.arange(n_rows), -1).astype(np.int32)


def warm_fit(
    trainer: LocalTrainer,
    model: FactorModel,
    rows: tuple[np.ndarray, np.ndarray],
    ratings: Ratings,
    is_new: np.ndarray,
    share: float,
    holdout: Ratings,
) -> Fit:
    ratings_to_learn = sample(ratings, is_new, share, [0], trainer.n_threads)
    start = carry_over(model, ratings, *rows, ratings_to_learn, trainer.n_threads)
    return trainer.fit(ratings, warm_hyperparameters(CHOSEN, n_epochs=1), holdout=holdout, start=start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="S20", choices=NAMES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chain", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the old ratings that a warm fit learns")
    arguments = parser.parse_args()
    data = data_set(arguments.name)
    all_ratings, holdout, test = (
        _ratings(part, data.n_users, data.n_items) for part in (data.tune, data.holdout, data.test)
    )
    trainer = LocalTrainer(arguments.threads)
    trainer.fit(all_ratings.take(np.arange(1000)), CHOSEN.replace(n_epochs=1))  # compiled before the clock starts
    step = arrival(all_ratings, arguments.chain)
    known = all_ratings.take(step == 0)
    model = timed("the model so far, cold", lambda: trainer.fit(known, CHOSEN, holdout=holdout), test, 1)[0].model
    for number in range(1, arguments.chain + 1):
        ratings = all_ratings.take(step <= number)
        label = f"warm, {len(ratings) - len(known):,} new"
        rows = _rows(known, ratings.n_users, True), _rows(known, ratings.n_items, False)

        def fit(
            model: FactorModel = model,
            rows: tuple[np.ndarray, np.ndarray] = rows,
            ratings: Ratings = ratings,
            is_new: np.ndarray = step[step <= number] == number,
        ) -> Fit:
            return warm_fit(trainer, model, rows, ratings, is_new, arguments.share, holdout)

        warm, warm_seconds, warm_error = timed(label, fit, test, ROUNDS)
        known, model = ratings, warm.model
    _, cold_seconds, cold_error = timed(
        "cold, all of them", lambda: trainer.fit(all_ratings, CHOSEN, holdout=holdout), test, ROUNDS
    )
    print(f"warm / cold: time {warm_seconds / cold_seconds:.1%}, error {warm_error / cold_error - 1:+.3%}")


if __name__ == "__main__":
    main()
