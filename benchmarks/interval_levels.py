"""Coverage of intervals at each level on the five fixed folds of MovieLens latest-small.

    .venv/bin/python -m benchmarks.interval_levels          # a few minutes

Training and predictions are those of `benchmarks.accuracy`. SGD's intervals are Gaussian, those of averages calibrated
on held-out ratings.
"""

from __future__ import annotations

import argparse

import numpy as np

from app.engine.data.ratings import Ratings
from app.engine.factors import FactorModel
from app.engine.fold_in.fold_in import FoldIn
from benchmarks.accuracy import N_FOLDS, train
from benchmarks.datasets import movielens_folder
from benchmarks.engine_folds import load_folds

LEVELS = (0.5, 0.8, 0.9, 0.95)
LOWEST, HIGHEST = 0.5, 5.0


def coverage(model: FactorModel, known: Ratings, test: Ratings) -> np.ndarray:
    """Test ratings covered and sum of widths for each level; intervals are clipped to the scale."""
    fold_in, sums = FoldIn(model), np.zeros((len(LEVELS), 2))
    for user_row in np.unique(test.user_rows).tolist():
        seen, asked = known.of_user(user_row), test.of_user(user_row)
        user = fold_in.fold_in(known.item_rows[seen], known.values[seen])
        rows = test.item_rows[asked]
        values, variances = fold_in.predict(user, rows)
        for place, level in enumerate(LEVELS):
            ends = fold_in.interval(user, rows, values, variances, level)
            lower, upper = (np.clip(end, LOWEST, HIGHEST) for end in ends)
            inside = (lower <= test.values[asked]) & (test.values[asked] <= upper)
            sums[place] += inside.sum(), (upper - lower).sum()
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    n_threads = parser.parse_args().threads
    ratings, fold_of = load_folds(movielens_folder() / "ratings.csv")
    sums = {"SGD": np.zeros((len(LEVELS), 2)), "average": np.zeros((len(LEVELS), 2))}
    for fold in range(N_FOLDS):
        known, test = ratings.take(fold_of != fold), ratings.take(fold_of == fold)
        fits = train(known, n_threads)
        for name, model in (("SGD", fits.sgd), ("average", fits.posterior)):
            sums[name] += coverage(model, known, test)
    print("level   " + "   ".join(f"{name}: coverage, width" for name in sums))
    for place, level in enumerate(LEVELS):
        cells = (
            f"{inside / len(ratings):6.1%}, {width / len(ratings):.2f}"
            for inside, width in (each[place] for each in sums.values())
        )
        print(f"{level:5.0%}   " + "          ".join(cells))


if __name__ == "__main__":
    main()
