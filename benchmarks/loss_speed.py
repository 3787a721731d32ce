"""How fast declared losses train, and how long their kernels take to start.

    .venv/bin/python -m benchmarks.loss_speed [--rounds 7] [--factors 64] [--losses squared huber log_cosh]

The losses take turns on one core, on the synthetic ratings S1: each round fits every loss for a few epochs; the result
is the median over rounds of the median epoch after the first. Start times are measured in fresh processes, from the
imported engine to a callable kernel: with an empty kernel folder, and again with the folder filled by that.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from app.engine.data.ratings import Ratings
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.declare import declare
from app.engine.sgd.local import LocalTrainer
from benchmarks.synthetic import SHAPES, generate

RANGE = (0.5, 5.0)

_START = """
import sys, time
from pathlib import Path
from app.engine.sgd.kernel_cache import load_kernel
from app.engine.simd.lanes import padded
from app.engine.losses.declare import declare
from app.engine.losses.units import training_units
import app.engine.sgd.local
started = time.perf_counter()
units = training_units(declare(sys.argv[1], rating_range=(0.5, 5.0)), 3.5, 1.05)
load_kernel(units.loss, padded(int(sys.argv[2])), Path(sys.argv[3]))
print(time.perf_counter() - started)
"""


def epoch_rates(ratings: Ratings, loss: str, n_factors: int) -> float:
    """Median ratings per second of the epochs after the first."""
    settings = Hyperparameters(n_factors=n_factors, n_epochs=5)
    fit = LocalTrainer(1, loss=declare(loss, rating_range=RANGE)).fit(ratings, settings)
    return statistics.median(report.ratings_per_second for report in fit.epochs[1:])


def start_seconds(loss: str, n_factors: int, folder: Path) -> float:
    """Seconds to a kernel in a new process."""
    command = [sys.executable, "-c", _START, loss, str(n_factors), str(folder)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--losses", nargs="+", default=["squared", "huber", "log_cosh"])
    given = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    shape = SHAPES["S1"]
    users, items, values = generate(shape)
    ratings = Ratings(users, items, values, shape.n_users, shape.n_items)
    rates: dict[str, list[float]] = {loss: [] for loss in given.losses}
    for _ in range(given.rounds):
        for loss in given.losses:
            rates[loss].append(epoch_rates(ratings, loss, given.factors))
    base = statistics.median(rates[given.losses[0]])
    print("loss                       M ratings/s   of the first   first start   cached start")
    for loss in given.losses:
        with tempfile.TemporaryDirectory() as folder:
            first = start_seconds(loss, given.factors, Path(folder))
            cached = statistics.median(start_seconds(loss, given.factors, Path(folder)) for _ in range(3))
        rate = statistics.median(rates[loss])
        print(f"{loss:26} {rate / 1e6:11.1f}   {rate / base:12.3f}   {first:9.2f} s   {cached:10.3f} s")


if __name__ == "__main__":
    main()
