"""Works on a claimed search: the trials that are still missing, then perhaps the training that publishes the best."""

from __future__ import annotations

import logging
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import Unpack

from sqlalchemy import Connection

from app.db.engine import Database
from app.engine.recipe import Recipe
from app.engine.search.run import Folds, run_search
from app.engine.search.trials import Trial, best_of
from app.engine.sgd.local import LocalTrainer
from app.registry.metrics import ChosenTrial, RunMetrics
from app.settings import Settings
from app.training import queue, run
from app.training.lease import Lease, RunStopped
from app.training.queue import Claim
from app.training.run import MIN_HOLDOUT, RunHooks, Untrainable
from app.training.snapshot.take import TrainingSnapshot, split, take_snapshot
from app.tuning import store
from app.tuning.store import SearchSpec

log = logging.getLogger(__name__)


def execute(database: Database, settings: Settings, claim: Claim, **hooks: Unpack[RunHooks]) -> None:
    """Work on a claimed run of kind `search` until it has an outcome or is handed back.

    `on_epoch` receives the epochs of the training that publishes the best trial.
    """
    choose = partial(_choose, database, settings)
    run.execute(database, settings, claim, choose=choose, **hooks)


def _choose(database: Database, settings: Settings, lease: Lease, metrics: RunMetrics) -> Recipe | None:
    """The best recipe, for a training that publishes it; None if nothing is to be published."""
    row, trials = lease.retry(lambda: _stored(database, lease.claim.run_id))
    spec = store.spec_of(row)
    if len(trials) < row.n_trials:
        trials = _search(database, settings, lease, spec, trials)
    best = best_of(trials)
    if best is None:
        reason = next((trial.error for trial in trials if trial.error), "all of them were pruned")
        raise Untrainable(f"none of the {len(trials)} trials was completed: {reason}")
    metrics.search = ChosenTrial(search_id=lease.claim.run_id, best_trial=best.number, value=best.value)
    log.info("search %d: trial %d is the best: %s", lease.claim.run_id, best.number, best.parameters)
    return spec.base.with_values(best.parameters) if spec.publish else None


def _stored(database: Database, search_id: int) -> tuple[store.SearchRun, list[Trial]]:
    with database.read() as connection:
        return store.get(connection, search_id), store.trials_of(connection, search_id)


def _search(database: Database, settings: Settings, lease: Lease, spec: SearchSpec, trials: list[Trial]) -> list[Trial]:
    snapshot = lease.retry(lambda: take_snapshot(database, settings.snapshot_dir))
    folds = _folds(snapshot, spec.n_folds, spec.base.hyperparameters.holdout_fraction)
    n_ratings = len(snapshot.ratings)
    lease.write(lambda connection, _: queue.record(connection, lease.claim, n_ratings=n_ratings))
    search = spec.search()
    trainer_of = partial(LocalTrainer, settings.training.n_threads, settings.kernels_dir)

    def record(trial: Trial) -> None:
        is_training_queued = _record(lease, trial, snapshot.revision)
        if is_training_queued and trial.number + 1 < search.n_planned:
            log.info("search %d was returned to the queue: a training run is waiting", lease.claim.run_id)
            raise RunStopped

    inputs = (trainer_of, folds, spec.base, search)
    return run_search(*inputs, trials=trials, on_trial=record, is_cancelled=lease.must_stop)


def _record(lease: Lease, trial: Trial, trained_through: int) -> bool:
    """Store a trial; returns whether a training waits."""
    search_id = lease.claim.run_id

    def write(connection: Connection, now: datetime) -> bool:
        store.record_trial(connection, search_id, trial, trained_through, now)
        return queue.is_training_queued(connection)

    is_training_queued = lease.write(write)
    log.info("search %d, trial %d %s: %s", search_id, trial.number, trial.status, trial.error or trial.value)
    return is_training_queued


def _folds(snapshot: TrainingSnapshot, n_folds: int, fraction: float) -> Folds:
    """One hold-out of this fraction, or n_folds folds, assigned by the ids of the ratings.

    So a search that continues after new ratings arrived still holds out the same ones. Raises Untrainable if there are
    too few to hold out.
    """
    if n_folds == 1:
        masks = [snapshot.holdout_mask(fraction)]
    else:
        below = [snapshot.holdout_mask(number / n_folds) for number in range(1, n_folds)]
        masks = [below[0], *(upper & ~lower for lower, upper in pairwise(below)), ~below[-1]]
    n_held_out = min(int(mask.sum()) for mask in masks)
    if not MIN_HOLDOUT <= n_held_out <= len(snapshot.ratings) - 2:
        raise Untrainable(
            f"a search needs at least {MIN_HOLDOUT} held-out ratings to measure a trial; of {len(snapshot.ratings)} "
            f"ratings {n_held_out} would be held out"
        )
    return [split(snapshot.ratings, mask) for mask in masks]
