"""Whole retrains through the service's own trainer, from the claim to the activated version, and their memory.

    .venv/bin/python -m benchmarks.whole_retrain [S1|S20] [--database sqlite|postgresql] [--threads 2] [--keep folder]

First a cold run without a stored snapshot, then a warm one after 1 % changes. Each is a fresh process; the table of
phases is the one in the trainer's log, the peak is of the whole process, mapped files included. Posterior averaging is
off; its time is measured by `benchmarks.accuracy --sweeps`.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from app.db.engine import open_database
from app.engine.data.ratings import Ratings
from app.engine.hyperparameters import Hyperparameters
from app.engine.sgd.local import LocalTrainer
from app.settings import Settings, Training
from app.training.run import phase_table
from app.training.wait_for_run import train_now
from benchmarks.datasets import DATA_FOLDER, data_set, load
from benchmarks.filled_databases import filled, postgres
from benchmarks.loading import change, peak_memory

FITTING = ("start", "layout", "fit", "final_fit")


def retrain(settings: Settings, answers: multiprocessing.Queue[Any]) -> None:
    logging.basicConfig(level="WARNING")
    chosen = Hyperparameters(posterior="off")
    database = open_database(settings)
    _warm_up(settings, chosen)
    with threadpool_limits(1):
        run = train_now(database, settings, chosen)
    answers.put((run.status, run.error, run.metrics, (run.finished_at - run.started_at).total_seconds(), peak_memory()))


def _warm_up(settings: Settings, chosen: Hyperparameters) -> None:
    """A trainer has its kernels loaded after its first run, and this is about those that follow."""
    import app.training.snapshot.kernels  # noqa: F401

    rows = np.arange(100, dtype=np.int32)
    tiny, held_out = (Ratings(rows, rows, np.linspace(1, 5, 100, dtype=np.float32), 100, 100) for _ in range(2))
    LocalTrainer(1, settings.kernels_dir).fit(tiny, chosen.replace(n_epochs=1), holdout=held_out)


def report(label: str, settings: Settings) -> dict[str, Any]:
    """One run in a fresh process; prints its phases."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    before = os.getloadavg()[0]
    process = context.Process(target=retrain, args=(settings, answers))
    process.start()
    status, error, metrics, seconds, peak = answers.get(timeout=900)
    process.join()
    assert status == "succeeded", error
    print(f"\n{label}: claim to activated {seconds:.2f} s, peak {peak / 2**30:.2f} GiB, load before {before:.1f}")
    print(phase_table(metrics["seconds"]))
    print(f"hold-out RMSE {metrics['holdout_rmse']}, {metrics['start']}, gate {metrics.get('gate')}", flush=True)
    found: dict[str, Any] = metrics
    return found


def run(name: str, settings: Settings) -> None:
    data = DATA_FOLDER / name
    n_users, n_items = map(int, (data / "shape.txt").read_text().split())
    all_ratings = load(data, "all")
    n = len(all_ratings)
    database = filled(settings, all_ratings, n_users, n_items)
    del all_ratings
    for folder in (settings.snapshot_dir, settings.versions_dir):
        shutil.rmtree(folder, ignore_errors=True)
    with database.write() as connection:
        for table in ("active_model", "model_versions"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    cold = report("cold, nothing stored", settings)
    change(database, n_users, n_items, n)
    warm = report("after 1 % changes", settings)
    anew = settings.model_copy(update={"training": settings.training.model_copy(update={"cold_start_every": 1})})
    again = report("the same ratings, cold", anew)
    seconds = [sum(one["seconds"].get(phase, 0.0) for phase in FITTING) for one in (cold, warm, again)]
    error = warm["holdout_rmse"] / again["holdout_rmse"] - 1
    print(f"\nfitting (start, layout, fit, final_fit): warm {seconds[1]:.2f} s, cold {seconds[2]:.2f} s, ", end="")
    print(f"{seconds[1] / seconds[2]:.1%}; hold-out RMSE {error:+.3%}")
    database.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="S20", choices=("S1", "S20"))
    parser.add_argument("--database", default="postgresql", choices=("sqlite", "postgresql"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--postgres", help="URL of an empty database")
    parser.add_argument("--keep", type=Path, help="folder for the filled databases, as in benchmarks.loading")
    arguments = parser.parse_args()
    data_set(arguments.name)
    home = arguments.keep or Path(tempfile.mkdtemp())
    home.mkdir(exist_ok=True)
    home.chmod(0o755)  # as root the server runs as another user
    training = Training(n_threads=arguments.threads)
    folder = home / arguments.database
    if arguments.database == "sqlite":
        run(arguments.name, Settings(data_dir=folder, sqlite_synchronous="normal", training=training))
    else:
        with postgres(arguments.postgres, home / "server") as url:
            run(arguments.name, Settings(data_dir=folder, database_url=url, training=training))
    if not arguments.keep:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
