"""The story of one search, from the claim to its outcome: trials one by one, and then perhaps the winner's training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from app.db.engine import Database
from app.engine.data.ratings import Ratings
from app.engine.losses.base import Loss
from app.engine.recipe import Recipe
from app.engine.search.run import Folds, run_search
from app.engine.search.trials import Trial, best_of
from app.engine.sgd.local import LocalTrainer
from app.settings import Settings
from app.training import queue, run
from app.training.lease import Lease, RunStopped
from app.training.queue import Claim, Epoch
from app.training.run import MIN_HOLDOUT, Untrainable
from app.training.snapshot.take import TrainingSnapshot, split, take_snapshot
from app.tuning import store

log = logging.getLogger(__name__)


def execute(
    database: Database,
    settings: Settings,
    claim: Claim,
    *,
    is_stopping: Callable[[], bool],
    on_epoch: Callable[[Epoch], None] | None = None,
) -> None:
    """Work on a claimed run of kind `search` until it has an outcome or is handed back.

    `on_epoch` receives the epochs of the training that publishes the best trial.
    """
    choose = _Study(database, settings).choose
    run.execute(database, settings, claim, is_stopping=is_stopping, on_epoch=on_epoch, choose=choose)


class _Study:
    """Does the trials of a search that are still missing."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    def choose(self, lease: Lease, metrics: dict[str, Any]) -> Recipe | None:
        """The best recipe, for a training that publishes it; None where nothing is to be published."""
        row, trials = lease.retry(lambda: self._asked(lease.claim.run_id))
        wanted = store.wanted_of(row)
        if len(trials) < row.n_trials:
            trials = self._search(lease, wanted, trials)
        best = best_of(trials)
        if best is None:
            raise Untrainable(f"none of the {len(trials)} trials came to an end: {_reasons(trials)}")
        metrics["search"] = {"search_id": lease.claim.run_id, "best_trial": best.number, "value": best.value}
        log.info("search %d: trial %d is the best: %s", lease.claim.run_id, best.number, best.parameters)
        return wanted.base.with_values(best.parameters) if wanted.publish else None

    def _asked(self, search_id: int) -> tuple[store.SearchRun, list[Trial]]:
        with self._database.read() as connection:
            return store.get(connection, search_id), store.trials_of(connection, search_id)

    def _search(self, lease: Lease, wanted: store.Wanted, trials: list[Trial]) -> list[Trial]:
        snapshot = lease.retry(lambda: take_snapshot(self._database, self._settings.snapshot_dir))
        folds = _folds(snapshot, wanted.n_folds, wanted.base.hyperparameters.holdout_fraction)
        n_ratings = len(snapshot.ratings)
        lease.write(lambda connection, _: queue.record(connection, lease.claim, n_ratings=n_ratings))
        search = wanted.search()

        def write_down(trial: Trial) -> None:
            is_last = trial.number + 1 == search.n_planned
            self._write_down(lease, trial, snapshot.revision, is_last=is_last)

        return run_search(
            *(self._trainer_of, folds, wanted.base, search),
            trials=trials,
            on_trial=write_down,
            is_cancelled=lease.must_stop,
        )

    def _trainer_of(self, loss: Loss) -> LocalTrainer:
        return LocalTrainer(self._settings.training.n_threads, self._settings.kernels_dir, loss)

    def _write_down(self, lease: Lease, trial: Trial, trained_through: int, *, is_last: bool) -> None:
        """Raises RunStopped where a training waits: the search is handed back, and goes on after it."""
        search_id = lease.claim.run_id

        def write(connection: Any, now: Any) -> bool:
            store.record_trial(connection, search_id, trial, trained_through, now)
            return queue.is_training_queued(connection)

        makes_room = lease.write(write)
        log.info("search %d, trial %d %s: %s", search_id, trial.number, trial.status, trial.error or trial.value)
        if makes_room and not is_last:
            log.info("search %d makes room for a training that waits", search_id)
            raise RunStopped


def _folds(snapshot: TrainingSnapshot, n_folds: int, fraction: float) -> Folds:
    """By the ids of the ratings, so that a search which goes on after new ones came in holds out the same.

    Raises Untrainable where there is too little to hold out.
    """
    if n_folds == 1:
        masks = [snapshot.holdout_mask(fraction)]
    else:
        below = [snapshot.holdout_mask(number / n_folds) for number in range(1, n_folds)]
        masks = [below[0], *(upper & ~lower for lower, upper in pairwise(below)), ~below[-1]]
    n_held_out = min(int(mask.sum()) for mask in masks)
    if not MIN_HOLDOUT <= n_held_out <= len(snapshot.ratings) - 2:
        raise Untrainable(
            f"a search needs at least {MIN_HOLDOUT} ratings to judge a trial by; of {len(snapshot.ratings)} ratings "
            f"{n_held_out} would be held out"
        )
    folds: list[tuple[Ratings, Ratings]] = [split(snapshot.ratings, mask) for mask in masks]
    return folds


def _reasons(trials: list[Trial]) -> str:
    return next((trial.error for trial in trials if trial.error), "all of them were pruned")
