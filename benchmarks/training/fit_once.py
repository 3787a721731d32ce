"""One fit in a process of its own: prints the most memory that the process ever held, in bytes.

.venv/bin/python -m benchmarks.training.fit_once S20 2 [--holdout]
"""

from __future__ import annotations

import argparse
import resource

from app.engine.data.ratings import Ratings
from app.engine.hyperparameters import Hyperparameters
from app.engine.sgd.local import LocalTrainer
from benchmarks.datasets import DATA_FOLDER, load, random_mask

HOLDOUT_SHARE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("n_threads", type=int)
    parser.add_argument("--holdout", action="store_true", help="hold 5 % out, as the service does by default")
    arguments = parser.parse_args()
    ratings, holdout = _all_ratings(arguments.data), None
    if arguments.holdout:
        is_holdout = random_mask(len(ratings), HOLDOUT_SHARE, [0])
        holdout, ratings = ratings.take(is_holdout), ratings.take(~is_holdout)
    LocalTrainer(arguments.n_threads).fit(ratings, Hyperparameters(n_epochs=2), holdout=holdout)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _all_ratings(name: str) -> Ratings:
    all_ratings = load(DATA_FOLDER / name, "all")
    n_users, n_items = int(all_ratings.users.max()) + 1, int(all_ratings.items.max()) + 1
    return Ratings(all_ratings.users, all_ratings.items, all_ratings.values, n_users, n_items)


if __name__ == "__main__":
    main()
