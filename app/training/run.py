"""The story of one training run, from the claim to its outcome."""

from __future__ import annotations

import dataclasses
import logging
import platform
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypedDict

import numba
import numpy as np
from sqlalchemy import Connection
from threadpoolctl import threadpool_limits

from app import __version__
from app.db.engine import DATABASE_IS_AWAY, Database
from app.db.tables import utc_now
from app.engine.bayes.average import PosteriorFit
from app.engine.data.ratings import Ratings
from app.engine.factors import FactorModel
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.base import Loss
from app.engine.losses.grammar import InvalidLoss
from app.engine.recipe import Recipe
from app.engine.sgd.local import LocalTrainer
from app.engine.sgd.refit import refit
from app.engine.sgd.trainer import Diverged, EpochReport, Fit, FitCancelled, WarmStart
from app.registry import artifacts, versions
from app.registry.artifacts import DamagedVersion, Examiner, VersionContents, look_up
from app.settings import Settings
from app.training import queue
from app.training.evaluation.holdout import (
    Questions,
    Rejected,
    Sheet,
    answer,
    measure,
    refuse_if_worse,
    refuse_unless_finite,
)
from app.training.evaluation.report import report
from app.training.lease import Lease, RunStopped
from app.training.models import Phase, RunStatus
from app.training.phases import phase_table
from app.training.posterior_stage import Stage, as_epoch, facts, with_model
from app.training.queue import Claim, Epoch, LeaseLost
from app.training.snapshot.take import TrainingSnapshot, split, take_snapshot
from app.training.warm_start import BeginAnew, WarmPlan, plan_warm_run

log = logging.getLogger(__name__)

MIN_HOLDOUT = 20
"""A hold-out of fewer ratings says nothing about the best epoch; then every rating is learned at once."""


class Untrainable(Exception):
    """The ratings cannot be learned from: says why."""


class Drifted(Exception):
    """Going on from one version to the next has made the model worse: says by how much."""


class _Hooks(TypedDict):
    on_epoch: Callable[[EpochReport], None]
    is_cancelled: Callable[[], bool]


Choose = Callable[[Lease, dict[str, Any]], Recipe | None]
"""Finds out what to train with, under the lease of the run, and notes in its metrics what it found.

None where nothing shall be trained. Raises RunStopped, FitCancelled, Untrainable or LeaseLost, as steps of a run do.
"""


@dataclass(slots=True)
class _Run:
    """What the steps of a run share."""

    lease: Lease
    database: Database
    settings: Settings
    metrics: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    chosen: Recipe | None = None
    stage: Stage | None = None
    """Posterior averaging, where the run does it."""

    @property
    def hyperparameters(self) -> Hyperparameters:
        return self.chosen.hyperparameters if self.chosen else self.lease.claim.hyperparameters

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Writes down how long a step took; a run that is to stop stops before the step."""
        self.lease.raise_if_stopping()
        started = time.perf_counter()
        try:
            yield
        finally:
            self._spend(step, time.perf_counter() - started)

    def _spend(self, step: str, more: float) -> None:
        seconds = self.metrics.setdefault("seconds", {})
        seconds[step] = round(seconds.get(step, 0.0) + more, 4)

    def fit(self, ratings: Ratings, holdout: Ratings, plan: WarmPlan | None, start: WarmStart | None) -> Fit:
        """A fit that the hold-out watches; raises FitCancelled soon after the run is to stop."""
        chosen = plan.hyperparameters if plan else self.hyperparameters
        fit = self.trainer().fit(ratings, chosen, holdout=holdout, start=start, **self._hooks("fit"))
        return self._recorded("fit", fit)

    def learn_all(self, ratings: Ratings, first: Fit | None, plan: WarmPlan | None, start: WarmStart | None) -> Fit:
        """A fit of everything: for as many epochs as the first fit found best, or as many as were asked for."""
        chosen = plan.hyperparameters if plan else self.hyperparameters
        if first is None:
            fit = self.trainer().fit(ratings, chosen, **self._hooks("final"))
        else:
            fit = refit(self.trainer(), ratings, chosen, first, start=start, **self._hooks("final"))
        return self._recorded("final", fit)

    def with_stage(self, snapshot: TrainingSnapshot) -> TrainingSnapshot:
        """Decides on posterior averaging, which alone can tell anything of items that have categories and no rating."""
        widened = snapshot.with_unrated_items()
        stage = Stage.of(
            self.hyperparameters,
            widened.ratings,
            is_squared=self.trainer().loss.is_squared,
            n_threads=self.settings.training.n_threads,
            limit=self.settings.training.posterior_time_limit,
            is_cancelled=self.lease.must_stop,
            on_epoch=self.lease.report,
        )
        if stage is None:
            return snapshot
        features = widened.item_features()
        if features is not None:
            n_unrated = widened.ratings.n_items - snapshot.ratings.n_items
            self.metrics["categories"] = {"n_features": features.shape[1], "n_unrated_items": n_unrated}
        self.stage = dataclasses.replace(stage, item_features=features)
        return widened

    def trainer(self) -> LocalTrainer:
        return LocalTrainer(self.settings.training.n_threads, self.settings.kernels_dir, self.loss)

    @property
    def loss(self) -> Loss:
        return self.chosen.loss if self.chosen else self.lease.claim.loss

    def _hooks(self, phase: Phase) -> _Hooks:
        return {"on_epoch": lambda report: self.lease.report(phase, report), "is_cancelled": self.lease.must_stop}

    def _recorded(self, phase: Phase, fit: Fit) -> Fit:
        self._draw(phase, fit.epochs)
        self._spend("layout", fit.layout_seconds)  # counted by itself, and not in the step around it
        self._spend("fit" if phase == "fit" else "final_fit", -fit.layout_seconds)
        return fit

    def draw_sweeps(self, phase: Phase, average: PosteriorFit) -> PosteriorFit:
        """The same average, its sweeps a part of the learning curve."""
        self._draw(phase, [as_epoch(sweep) for sweep in average.sweeps])
        return average

    def _draw(self, phase: Phase, reports: Iterable[EpochReport]) -> None:
        self.curve += [{"phase": phase, **dataclasses.asdict(report)} for report in reports]


@dataclass(frozen=True, slots=True)
class _Examined:
    """A fit, and the average over models that it was the start of, where the run averages."""

    fit: Fit
    average: PosteriorFit | None

    @property
    def model(self) -> FactorModel:
        return with_model(self.fit, self.average).model


def execute(
    database: Database,
    settings: Settings,
    claim: Claim,
    *,
    is_stopping: Callable[[], bool],
    on_epoch: Callable[[Epoch], None] | None = None,
    choose: Choose | None = None,
) -> None:
    """Work on a claimed run until it has an outcome in the database, or is handed back because we are stopping.

    A search is a run too, with a `choose` that does its trials.
    """
    assert (claim.kind == "search") == (choose is not None)
    held = Lease(database, claim, settings.training.lease, is_stopping=is_stopping, on_epoch=on_epoch)
    with threadpool_limits(1), held as lease:  # thousands of small solves, each slower on several threads than on one
        run = _Run(lease, database, settings)
        log.info("run %d starts (attempt %d)", claim.run_id, claim.attempt)
        try:
            _work_on(run, choose)
        except LeaseLost as lost:
            log.warning("%s; what was done for it is dropped", lost)
        except RunStopped:
            log.warning("run %d is left to whoever takes it over: the database is away", claim.run_id)


def _work_on(run: _Run, choose: Choose | None) -> None:
    try:
        if choose and (chosen := choose(run.lease, run.metrics)) is None:
            _end(run, "succeeded")
            return
        if choose:
            run.chosen = chosen
        version = _train(run)
    except (RunStopped, FitCancelled):
        _stop(run)
    except Rejected as rejected:
        _end(run, "rejected", str(rejected))
    except (Untrainable, Diverged, InvalidLoss) as unusable:
        _end(run, "failed", str(unusable))
    except LeaseLost:
        raise
    except Exception as error:  # the worker's edge: whatever it was, the worker goes on
        log.exception("run %d failed", run.lease.claim.run_id)
        _end(run, "failed", f"{type(error).__name__}: {error}")
    else:
        told = {name: fact for name, fact in run.metrics.items() if name != "report"}  # which fills pages
        log.info("run %d published version %d: %s", run.lease.claim.run_id, version, told)
        log.info("run %d by phase:\n%s", run.lease.claim.run_id, phase_table(run.metrics["seconds"]))
        _prune(run)


def _train(run: _Run) -> int:
    """Load, fit with a hold-out, examine, learn the hold-out too, publish; returns the new version's number."""
    _remove_leftovers(run)
    active = run.lease.retry(lambda: _active_version(run.database))
    with run.timed("load"):
        snapshot = run.lease.retry(lambda: _load(run, active))
    _note_snapshot(run, snapshot)
    _refuse_untrainable(snapshot)
    snapshot = run.with_stage(snapshot)
    plan = _plan(run, snapshot, active)
    first, plan = _fit_and_examine(run, snapshot, plan)
    start = None
    if plan:
        with run.timed("start"):
            start = plan.start_of_published(snapshot.ratings)
    with run.timed("final_fit"):
        final = run.learn_all(snapshot.ratings, first.fit if first else None, plan, start)
    published = _averaged_all(run, snapshot, final, first, plan)
    refuse_unless_finite(published.model)
    return _publish(run, snapshot, published, first)


def _averaged_all(
    run: _Run, snapshot: TrainingSnapshot, final: Fit, first: _Examined | None, plan: WarmPlan | None
) -> _Examined:
    if run.stage is None:
        return _Examined(final, None)
    with run.timed("final_posterior"):
        earlier = plan.average_of_published(snapshot.ratings) if plan else None
        average = run.stage.final(final, snapshot.ratings, first.average if first else None, earlier)
    return _Examined(final, run.draw_sweeps("resample", average))


def _load(run: _Run, active: versions.VersionRow | None) -> TrainingSnapshot:
    return take_snapshot(
        run.database, run.settings.snapshot_dir, changed_since=active.trained_through if active else None
    )


def _plan(run: _Run, snapshot: TrainingSnapshot, active: versions.VersionRow | None) -> WarmPlan | None:
    """How to go on from the active version; None, and the reason in the metrics, where the run begins anew."""
    try:
        plan = plan_warm_run(
            active, run.settings.versions_dir, snapshot, run.hyperparameters, run.loss, run.settings.training
        )
    except BeginAnew as reason:
        _note_cold(run, str(reason))
        return None
    run.metrics["start"] = {
        "is_warm": True,
        "from_version": plan.version,
        "n_warm_in_a_row": plan.n_in_a_row,
        "n_changed": int(plan.changed.sum()),
        "drift": plan.drift_before,
    }
    return plan


def _note_cold(run: _Run, reason: str) -> None:
    run.metrics["start"] = {"is_warm": False, "because": reason, "n_warm_in_a_row": 0, "drift": 1.0}
    log.info("run %d begins anew: %s", run.lease.claim.run_id, reason)


def _fit_and_examine(
    run: _Run, snapshot: TrainingSnapshot, plan: WarmPlan | None
) -> tuple[_Examined | None, WarmPlan | None]:
    """The examined fit, None without a hold-out, and how it was made: a warm fit that drifts is done again, anew."""
    mask = snapshot.holdout_mask(run.hyperparameters.holdout_fraction)
    if not MIN_HOLDOUT <= int(mask.sum()) <= len(mask) - 2:
        if plan:
            _note_cold(run, "the hold-out is too small to examine a warm fit")
        return None, None
    train, holdout = split(snapshot.ratings, mask)
    if plan:
        try:
            with run.timed("start"):
                start = plan.start_of_examined(train, mask)
            with run.timed("fit"):
                fit = run.fit(train, holdout, plan, start)
            del start
            examined = _averaged(run, fit, train, holdout, plan)
            with run.timed("evaluate"):
                _examine(run, snapshot, examined, train, holdout)
                _refuse_drift(run, plan)
            return examined, plan
        except (Drifted, Diverged, Rejected) as unfit:
            _note_cold(run, str(unfit))
            run.curve.clear()
    with run.timed("fit"):
        fit = run.fit(train, holdout, None, None)
    examined = _averaged(run, fit, train, holdout, None)
    with run.timed("evaluate"):
        _examine(run, snapshot, examined, train, holdout)
    return examined, None


def _averaged(run: _Run, fit: Fit, train: Ratings, holdout: Ratings, plan: WarmPlan | None) -> _Examined:
    if run.stage is None:
        run.metrics["posterior"] = facts(None, fit)
        return _Examined(fit, None)
    with run.timed("posterior"):
        earlier = plan.average_of_examined(train) if plan else None
        average = run.draw_sweeps("sample", run.stage.examined(fit, train, holdout, earlier))
    run.metrics["posterior"] = facts(average, fit)
    return _Examined(fit, average)


def _refuse_drift(run: _Run, plan: WarmPlan) -> None:
    """Raises Drifted when this fit and the warm ones before it have become worse, all together, by too much."""
    gate = run.metrics.get("gate")
    if not gate or gate["active_version"] != plan.version or not gate["active_rmse"]:
        return
    drift = plan.drift(gate["rmse"], gate["active_rmse"])
    run.metrics["start"]["drift"] = round(drift, 6)
    if drift > 1.0 + run.settings.training.warm_start_max_drift:
        raise Drifted(f"{plan.n_in_a_row} warm versions in a row are worse by {drift - 1.0:.2%}, all together")


def _remove_leftovers(run: _Run) -> None:
    """Remove folders that a trainer left when it was killed.

    The folders are listed before the transaction that proves the lease ours: whoever made one that has no row by
    then can never list it, so it is rubbish.
    """
    found = artifacts.folders(run.settings.versions_dir)
    listed = set(run.lease.write(lambda connection, _: versions.folders(connection)))
    for folder in found:
        if folder.name not in listed:
            log.info("removing the version folder %s, which was never published", folder.name)
            artifacts.remove(folder)


def _note_snapshot(run: _Run, snapshot: TrainingSnapshot) -> None:
    facts = {"n_ratings": len(snapshot.ratings), "trained_through": snapshot.revision}
    run.lease.write(lambda connection, _: queue.record(connection, run.lease.claim, **facts))


def _refuse_untrainable(snapshot: TrainingSnapshot) -> None:
    if len(snapshot.ratings) < 2:
        raise Untrainable(f"training needs at least 2 ratings; there are {len(snapshot.ratings)}")


def _examine(run: _Run, snapshot: TrainingSnapshot, fit: _Examined, train: Ratings, holdout: Ratings) -> None:
    """Measure the fit on the hold-out, and let it pass unless the active version's own fit was clearly better."""
    scale = run.settings.rating
    refuse_unless_finite(fit.model)
    questions = Questions.of(train, holdout)
    sheet = answer(fit.model, questions, scale)
    run.metrics |= measure(fit.model, questions, sheet, scale)
    run.metrics["report"] = report(fit.model, questions, sheet, scale)
    run.metrics |= {"n_holdout": len(holdout), "best_epoch": fit.fit.best_epoch}
    run.metrics["train_rmse"] = round(fit.fit.best.train_rmse, 6)
    if fit.fit.best.holdout_error is not None:
        run.metrics["holdout_error"] = round(fit.fit.best.holdout_error, 6)  # as declared, by the trained vectors
    _pass_the_gate(run, snapshot, fit.model, train, holdout)


def _pass_the_gate(run: _Run, snapshot: TrainingSnapshot, model: FactorModel, train: Ratings, holdout: Ratings) -> None:
    """Raises Rejected when the active version, before it learned its hold-out, was clearly better than this fit.

    Both are asked about ratings that neither has learned from: what is held out is fixed by the ids of a rating,
    so this run's hold-out was held out of the active version's fit too (see `TrainingSnapshot.holdout_mask`).
    Comparing with what the active version serves would not be fair, since it has learned most of these ratings.
    """
    active = run.lease.retry(lambda: _active_version(run.database))
    examiner = _examiner_of(run, active) if active else None
    if active is None or examiner is None:
        return
    fraction = min(run.hyperparameters.holdout_fraction, active.manifest["hyperparameters"]["holdout_fraction"])
    shared = Questions.of(train, _held_out_by_both(snapshot, holdout, fraction))
    scale = run.settings.rating
    model_rows = look_up(examiner.item_row_of_key, snapshot.item_keys)
    old, new = answer(examiner.model, shared, scale, model_rows), answer(model, shared, scale)
    run.metrics["gate"] = {
        "active_version": active.version,
        "n_ratings": len(shared.asked),
        "rmse": _rmse(new),
        "active_rmse": _rmse(old),
    }
    refuse_if_worse(new, old, active.version, run.settings.training.gate_margin, run.loss)


def _active_version(database: Database) -> versions.VersionRow | None:
    with database.read() as connection:
        return versions.find_active(connection)


def _examiner_of(run: _Run, active: versions.VersionRow) -> Examiner | None:
    try:
        return artifacts.load_examiner(run.settings.versions_dir / active.folder, active.manifest)
    except DamagedVersion as damaged:  # all the more reason to publish a new one
        log.warning("no comparison with the active version %d: %s", active.version, damaged)
        return None


def _held_out_by_both(snapshot: TrainingSnapshot, holdout: Ratings, fraction: float) -> Ratings:
    """Of this run's hold-out what a run with this fraction holds out as well."""
    return split(holdout, dataclasses.replace(snapshot, ratings=holdout).holdout_mask(fraction))[1]


def _rmse(sheet: Sheet) -> float | None:
    return round(float(np.sqrt(sheet.squared_errors.mean())), 6) if sheet.actual.size else None


def _publish(run: _Run, snapshot: TrainingSnapshot, published: _Examined, examined: _Examined | None) -> int:
    """Write the folder, then list and activate it in the transaction that proves that the run is still ours."""
    contents = VersionContents(
        published.model,
        snapshot.user_keys,
        snapshot.item_keys,
        snapshot.item_ids,
        **_kept_for_later(run, snapshot, published, examined),
    )
    created_at = utc_now()
    folder = f"{created_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    with run.timed("publish"):
        facts = _facts(run, snapshot, created_at)
        manifest = artifacts.write(run.settings.versions_dir, folder, contents, facts)

    def list_and_activate(connection: Connection, now: datetime) -> int:
        if run.lease.is_cancel_requested:
            raise RunStopped
        claim = run.lease.claim
        version = versions.publish(
            connection, run_id=claim.run_id, folder=folder, manifest=manifest, created_at=created_at
        )
        queue.finish(connection, claim, "succeeded", now, version=version, metrics=run.metrics)
        return version

    return run.lease.write(list_and_activate)


def _kept_for_later(
    run: _Run, snapshot: TrainingSnapshot, published: _Examined, examined: _Examined | None
) -> dict[str, FactorModel]:
    """What a later run is measured against, and both fits that it may go on from where it would."""
    if examined is None:
        return {}
    if len(snapshot.ratings) < run.settings.training.warm_start_min_ratings:
        return {"examiner": _item_side(examined.model)}  # nothing will go on from it
    if examined.average is None:
        return {"examiner": examined.model}
    return {
        "examiner": examined.model,
        "published_start": published.fit.model,
        "examined_start": examined.fit.model,
    }


def _item_side(model: FactorModel) -> FactorModel:
    """The model without its users: all that folding in needs."""
    return dataclasses.replace(
        model, user_bias=model.user_bias[:0], user_factors=model.user_factors[:0], user_counts=model.user_counts[:0]
    )


def _facts(run: _Run, snapshot: TrainingSnapshot, created_at: datetime) -> Mapping[str, Any]:
    return {
        "created_at": created_at.isoformat(),
        "trained_through": snapshot.revision,
        "n_ratings": len(snapshot.ratings),
        "data_digest": snapshot.digest(),
        "loss": run.loss.to_dict(),
        "start": run.metrics["start"],
        "seed": run.hyperparameters.seed,
        "hyperparameters": run.hyperparameters.to_dict(),
        "metrics": dict(run.metrics),
        "learning_curve": run.curve,
        "software": {
            "palate": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": numba.__version__,
        },
    }


def _stop(run: _Run) -> None:
    """A cancelled run ends; one that was interrupted because we stop goes back to the queue."""
    lease = run.lease
    if lease.is_cancel_requested:
        _end(run, "cancelled")
    elif lease.is_lost:
        raise LeaseLost(lease.claim.run_id, lease.claim.attempt)
    else:
        lease.write(lambda connection, now: queue.hand_back(connection, lease.claim, now))
        log.info("run %d is back in the queue", lease.claim.run_id)


def _end(run: _Run, status: RunStatus, error: str | None = None) -> None:
    facts = {"error": error, "metrics": run.metrics}
    run.lease.write(lambda connection, now: queue.finish(connection, run.lease.claim, status, now, **facts))
    log.info("run %d %s%s", run.lease.claim.run_id, status, f": {error}" if error else "")


def _prune(run: _Run) -> None:
    try:
        pruned = versions.prune(run.database, run.settings.versions_dir, run.settings.versions.keep)
        with run.database.write() as connection:
            queue.prune(connection, run.settings.runs.keep)
    except DATABASE_IS_AWAY as error:  # the next publish does it
        log.warning("old versions and runs are not pruned: %s", error.orig)
    else:
        if pruned:
            log.info("pruned model versions %s", ", ".join(map(str, pruned)))
