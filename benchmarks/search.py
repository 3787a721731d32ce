"""Forty trials of a random and of a TPE search on MovieLens latest-small, and a search that is killed and resumed.

    .venv/bin/python -m benchmarks.search [--trials 40] [--folds 3] [--pruning none]

The product itself is used: the training ratings of fold 0 are imported, `palate tune` searches, SIGKILL ends a second
search in the middle, and `palate tune --resume` continues it. A search sees training ratings only and evaluates on its
own folds of them. The test fold is used once per winner, for the last column: fitted like a version (95 %, best epoch,
all), every user folded in, predictions clipped to the scale.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from threadpoolctl import threadpool_limits

from app.db.engine import Database, open_database
from app.engine.data.ratings import Ratings
from app.engine.evaluation import split_holdout
from app.engine.hyperparameters import Hyperparameters
from app.engine.search.trials import Trial, best_of
from app.engine.sgd.local import LocalTrainer
from app.engine.sgd.refit import refit
from app.settings import Settings
from app.tuning import store
from app.tuning.store import SearchRun
from benchmarks.datasets import DataSet, Part, data_set
from benchmarks.engine_folds import by_fold_in, clipped_rmse


class Service:
    """A data folder with the training ratings in it, and `palate` commands on it."""

    def __init__(self, folder: Path, data: DataSet, options: list[str]) -> None:
        self.folder = folder
        self._options = options
        ratings = folder / "ratings.csv"
        rows = zip(data.train.users.tolist(), data.train.items.tolist(), data.train.values.tolist(), strict=True)
        ratings.write_text(
            "user_id,item_id,value\n" + "".join(f"{user},{item},{value}\n" for user, item, value in rows)
        )
        self._palate("import", str(ratings)).wait()
        self.database: Database = open_database(Settings(data_dir=folder))

    def tune(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A search in a process of its own."""
        return self._palate("tune", *arguments, "--plot", str(self.folder / "search.svg"))

    def new_search(self, strategy: str) -> subprocess.Popen[bytes]:
        return self.tune(strategy, *self._options)

    def latest(self) -> tuple[SearchRun, list[Trial]]:
        with self.database.read() as connection:
            search = store.history(connection, limit=1)[0]
            return search, store.trials_of(connection, search.id)

    def n_done(self) -> int:
        with self.database.read() as connection:
            found = store.history(connection, limit=1)
            return len(store.trials_of(connection, found[0].id)) if found else 0

    def _palate(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "app.cli", "--data-dir", str(self.folder), *arguments]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def as_ratings(part: Part, data: DataSet) -> Ratings:
    return Ratings.of(part.users, part.items, part.values, n_users=data.n_users, n_items=data.n_items)


def test_error(data: DataSet, chosen: Hyperparameters) -> float:
    """RMSE on the test fold, trained and predicted like a version."""
    train, test = as_ratings(data.train, data), as_ratings(data.test, data)
    trainer = LocalTrainer()
    learned, holdout = split_holdout(train, chosen.holdout_fraction, chosen.seed)
    fit = refit(trainer, train, chosen, trainer.fit(learned, chosen, holdout=holdout))
    return clipped_rmse(by_fold_in(fit.model, train, test)[0], test)


def outcomes(trials: list[Trial]) -> list[tuple[object, ...]]:
    """All facts about trials except their durations."""
    return [(each.number, each.parameters, each.status, each.value, each.curve) for each in trials]


def interrupted(service: Service, strategy: str, n_trials: int) -> tuple[int, list[Trial]]:
    """Kill a search after a third of its trials and resume it; returns the number done by then, and all trials."""
    process = service.new_search(strategy)
    before = service.latest()[0].id
    while service.latest()[0].id == before or service.n_done() < n_trials // 3:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    n_done = service.n_done()
    service.tune("--resume", str(service.latest()[0].id)).wait()
    return n_done, service.latest()[1]


def report(name: str, data: DataSet, trials: list[Trial], seconds: float) -> None:
    """One line of the table: the first trial is the defaults, so the best of the drawn ones is outcomes as well."""
    best, drawn = best_of(trials), best_of(trials[1:])
    assert best is not None
    assert drawn is not None
    n_pruned = sum(each.status == "pruned" for each in trials)
    error = test_error(data, Hyperparameters().replace(**best.parameters))
    errors = f"{trials[0].value:.4f}  {drawn.value:.4f}  {best.value:.4f}"
    print(f"{name:8} {seconds:6.1f} s  {n_pruned:6}  {errors} (trial {best.number:2})  {error:.4f}")
    tried = (f"{key}={value:.4g}" for key, value in best.parameters.items() if isinstance(value, int | float))
    print("        ", *tried, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--pruning", default="none")
    given = parser.parse_args()
    options = ["--trials", str(given.trials), "--folds", str(given.folds), "--pruning", given.pruning]
    data = data_set("ml")
    print(f"{len(data.train):,} training ratings, {given.folds} folds of them, {given.trials} trials, {given.pruning}")
    print(f"defaults: test fold {test_error(data, Hyperparameters()):.4f}")
    print("strategy   time  pruned  folds: defaults, best drawn, best  test fold", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder), data, options)
        for strategy in ("random", "tpe"):
            started = time.perf_counter()
            service.new_search(strategy).wait()
            seconds = time.perf_counter() - started
            trials = service.latest()[1]
            report(strategy, data, trials, seconds)
            n_done, resumed = interrupted(service, strategy, given.trials)
            answer = "the same trials" if outcomes(resumed) == outcomes(trials) else "OTHER TRIALS"
            print(f"         killed after {n_done} trials and resumed: {answer}", flush=True)
        service.database.dispose()


if __name__ == "__main__":
    with threadpool_limits(1):  # small solves are slower on several threads
        main()
