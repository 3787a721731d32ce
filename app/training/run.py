"""The story of one training run, from the claim to its outcome; begin reading in `execute`."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Required, TypedDict, Unpack

from threadpoolctl import threadpool_limits

from app.db.engine import Database
from app.engine.arrays import Mask
from app.engine.data.ratings import Ratings
from app.engine.losses.grammar import InvalidLoss
from app.engine.recipe import Recipe
from app.engine.sgd.local import LocalTrainer
from app.engine.sgd.refit import refit
from app.engine.sgd.trainer import Diverged, EpochReport, Fit, FitCancelled, WarmStart
from app.registry import versions
from app.registry.metrics import CategoryFeatures, RunMetrics, Start
from app.registry.versions import VersionRow
from app.settings import Settings
from app.training import publish, queue
from app.training.evaluation.gate import Rejected, compare_with_active, refuse_unless_finite
from app.training.evaluation.holdout import HoldoutSplit, measure, predict_holdout
from app.training.evaluation.report import report
from app.training.lease import Lease, RunStopped
from app.training.models import Phase, RunStatus
from app.training.posterior_stage import PosteriorStage, TrainedModel
from app.training.queue import Claim, Epoch, LeaseLost
from app.training.snapshot.take import TrainingSnapshot, split, take_snapshot
from app.training.warm_start import ColdStart, Drifted, WarmPlan, plan_warm_run

log = logging.getLogger(__name__)

MIN_HOLDOUT = 20
"""With fewer ratings in the hold-out its error means nothing; then all ratings are learned in one fit."""

BOUNDS = {
    "load": "the database returning rows; with a stored snapshot, one pass over all ratings in memory",
    "start": "copying vectors, and folding in new users and items one by one",
    "layout": "memory: every rating is moved twice, to distant places",
    "fit": "arithmetic on vectors in the second-level cache",
    "posterior": "sums of outer products in registers; memory if there are many users",
    "evaluate": "folding in up to 2,000 users, and ranking for them, on one processor",
    "final_fit": "the same as fit, over all ratings",
    "final_posterior": "the same as posterior, over all ratings",
    "publish": "checksums on one processor, and syncing to disk",
}
"""What limits the speed of each phase of a run; in chronological order."""


class Untrainable(Exception):
    """The ratings cannot be learned from: says why."""


class RunHooks(TypedDict, total=False):
    """Callbacks of whoever executes a run."""

    is_stopping: Required[Callable[[], bool]]
    on_epoch: Callable[[Epoch], None] | None


Choose = Callable[[Lease, RunMetrics], Recipe | None]
"""Chooses the recipe to train, under the lease of the run, and adds to its metrics; None to train nothing.

Raises what steps of a run raise: RunStopped, FitCancelled, Untrainable, LeaseLost.
"""


@dataclass(slots=True)
class _Run:
    """What the steps of a run share."""

    lease: Lease
    database: Database
    settings: Settings
    recipe: Recipe
    metrics: RunMetrics = field(default_factory=RunMetrics)
    learning_curve: list[dict[str, Any]] = field(default_factory=list)
    stage: PosteriorStage | None = None
    """Posterior averaging, if the run does it."""

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds the time of the block to the metrics; raises RunStopped before it if the run must stop."""
        self.lease.raise_if_stopping()
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(phase, time.perf_counter() - started)

    def add_seconds(self, phase: str, seconds: float) -> None:
        spent = self.metrics.seconds or {}
        self.metrics.seconds = spent | {phase: round(spent.get(phase, 0.0) + seconds, 4)}

    def add_to_curve(self, phase: Phase, reports: Iterable[EpochReport]) -> None:
        self.learning_curve += [{"phase": phase, **dataclasses.asdict(report)} for report in reports]


def execute(
    database: Database, settings: Settings, claim: Claim, *, choose: Choose | None = None, **hooks: Unpack[RunHooks]
) -> None:
    """Work on a claimed run until it has an outcome in the database, or is handed back because `is_stopping()`.

    A search is a run too; its `choose` does the trials.
    """
    assert (claim.kind == "search") == (choose is not None)
    lease = Lease(database, claim, settings.training.lease, **hooks)
    with threadpool_limits(1), lease:  # thousands of small solves, each slower on several threads than on one
        run = _Run(lease, database, settings, Recipe(claim.hyperparameters, claim.loss))
        log.info("run %d starts (attempt %d)", claim.run_id, claim.attempt)
        try:
            _work_on(run, choose)
        except LeaseLost as lost:
            log.warning("%s; its results are discarded", lost)
        except RunStopped:
            log.warning("run %d is left to the next trainer: the database is unavailable", claim.run_id)


def _work_on(run: _Run, choose: Choose | None) -> None:
    try:
        if choose:
            recipe = choose(run.lease, run.metrics)
            if recipe is None:
                _finish(run, "succeeded")
                return
            run.recipe = recipe
        version = _train(run)
    except (RunStopped, FitCancelled):
        _stop(run)
    except Rejected as rejected:
        _finish(run, "rejected", str(rejected))
    except (Untrainable, Diverged, InvalidLoss) as unusable:
        _finish(run, "failed", str(unusable))
    except LeaseLost:
        raise
    except Exception as error:  # whatever it is, the worker goes on
        log.exception("run %d failed", run.lease.claim.run_id)
        _finish(run, "failed", f"{type(error).__name__}: {error}")
    else:
        metrics = run.metrics.model_dump(exclude={"report"}, exclude_unset=True)  # the report is too long for a log
        log.info("run %d published version %d: %s", run.lease.claim.run_id, version, metrics)
        log.info("run %d by phase:\n%s", run.lease.claim.run_id, phase_table(run.metrics.seconds or {}))
        publish.prune(run.database, run.settings)


def _train(run: _Run) -> int:
    """Load, fit without the hold-out, evaluate, fit all ratings, publish; returns the new version's number."""
    publish.remove_leftovers(run.lease, run.settings.versions_dir)
    active = run.lease.retry(lambda: _active_version(run.database))
    snapshot = _load(run, active)
    snapshot = _plan_averaging(run, snapshot)
    plan = _plan_warm_start(run, snapshot, active)
    evaluated, plan = _fit_and_evaluate(run, snapshot, plan)
    published = _fit_all(run, snapshot.ratings, evaluated, plan)
    refuse_unless_finite(published.model)
    return _publish(run, snapshot, published, evaluated)


def _active_version(database: Database) -> VersionRow | None:
    with database.read() as connection:
        return versions.find_active(connection)


def _load(run: _Run, active: VersionRow | None) -> TrainingSnapshot:
    """The ratings, those newer than the active version marked; raises Untrainable if there are too few."""
    changed_since = active.trained_through if active else None
    with run.timed("load"):
        snapshot = run.lease.retry(
            lambda: take_snapshot(run.database, run.settings.snapshot_dir, changed_since=changed_since)
        )
    n_ratings = len(snapshot.ratings)
    columns = {"n_ratings": n_ratings, "trained_through": snapshot.revision}
    run.lease.write(lambda connection, _: queue.record(connection, run.lease.claim, **columns))
    if n_ratings < 2:
        raise Untrainable(f"training needs at least 2 ratings; there are {n_ratings}")
    return snapshot


def _plan_averaging(run: _Run, snapshot: TrainingSnapshot) -> TrainingSnapshot:
    """Decide on posterior averaging; with it, items that have categories but no ratings get rows too."""
    widened = snapshot.with_unrated_items()
    stage = PosteriorStage.of(
        run.recipe.hyperparameters,
        widened.ratings,
        is_squared=run.recipe.loss.is_squared,
        settings=run.settings.training,
    )
    if stage is None:
        return snapshot
    features = widened.item_features()
    if features is not None:
        n_unrated = widened.ratings.n_items - snapshot.ratings.n_items
        run.metrics.categories = CategoryFeatures(n_features=features.shape[1], n_unrated_items=n_unrated)
    run.stage = dataclasses.replace(stage, item_features=features)
    return widened


def _plan_warm_start(run: _Run, snapshot: TrainingSnapshot, active: VersionRow | None) -> WarmPlan | None:
    """How to continue the active version; None, with the reason in the metrics, for a cold start."""
    try:
        plan = plan_warm_run(active, run.settings.versions_dir, snapshot, run.recipe, run.settings.training)
    except ColdStart as reason:
        _start_cold(run, str(reason))
        return None
    run.metrics.start = plan.metrics()
    return plan


def _start_cold(run: _Run, reason: str) -> None:
    run.metrics.start = Start(is_warm=False, reason=reason, n_warm_in_a_row=0, drift=1.0)
    log.info("run %d starts cold: %s", run.lease.claim.run_id, reason)


def _fit_and_evaluate(
    run: _Run, snapshot: TrainingSnapshot, plan: WarmPlan | None
) -> tuple[TrainedModel | None, WarmPlan | None]:
    """The fit without the hold-out, and the plan it followed; a warm fit that is worse is repeated cold.

    (None, None) if the hold-out is too small.
    """
    is_held_out = snapshot.holdout_mask(run.recipe.hyperparameters.holdout_fraction)
    if not MIN_HOLDOUT <= int(is_held_out.sum()) <= len(is_held_out) - 2:
        if plan:
            _start_cold(run, "the hold-out is too small to evaluate a warm fit")
        return None, None
    if plan:
        try:
            return _evaluated_fit(run, snapshot, is_held_out, plan), plan
        except (Drifted, Diverged, Rejected) as unfit:
            _start_cold(run, str(unfit))
            run.learning_curve.clear()
    return _evaluated_fit(run, snapshot, is_held_out, None), None


def _evaluated_fit(run: _Run, snapshot: TrainingSnapshot, is_held_out: Mask, plan: WarmPlan | None) -> TrainedModel:
    """Raises Rejected, Diverged, or Drifted for a warm fit."""
    train, holdout = split(snapshot.ratings, is_held_out)
    start = None
    if plan:
        with run.timed("start"):
            start = plan.start_of_fit(plan.evaluated, train, plan.changed[~is_held_out])
    fit = _fit(run, "fit", train, plan, start, holdout=holdout)
    del start  # as large as the model
    trained = TrainedModel(fit, None)
    if run.stage:
        with run.timed("posterior"):
            earlier = plan.start_of_chain(plan.evaluated_average, train) if plan else None
            average = run.stage.average(run.lease, "sample", fit, train, earlier, holdout=holdout)
            run.add_to_curve("sample", average.sweeps)
            trained = TrainedModel(fit, average)
    run.metrics.posterior = trained.metrics()
    with run.timed("evaluate"):
        _evaluate(run, snapshot, trained, train, holdout)
        if plan:
            limit = run.settings.training.warm_start_max_drift
            run.metrics.start = plan.metrics_with_drift(run.metrics.gate, limit)
    return trained


def _evaluate(run: _Run, snapshot: TrainingSnapshot, trained: TrainedModel, train: Ratings, holdout: Ratings) -> None:
    """Measure the fit on the hold-out; raises Rejected if the active version was clearly better."""
    scale, best = run.settings.rating, trained.fit.best
    refuse_unless_finite(trained.model)
    evaluation_set = HoldoutSplit.of(train, holdout)
    predictions = predict_holdout(trained.model, evaluation_set, scale)
    measures = measure(trained.model, evaluation_set, predictions, scale)
    measures |= {"n_holdout": len(holdout), "best_epoch": trained.fit.best_epoch}
    measures["train_rmse"] = round(best.train_rmse, 6)
    if best.holdout_error is not None:
        measures["holdout_error"] = round(best.holdout_error, 6)  # as declared, by the trained vectors
    run.metrics = run.metrics.model_copy(update=measures)
    run.metrics.report = report(trained.model, evaluation_set, predictions, scale)
    active = run.lease.retry(lambda: _active_version(run.database))
    comparison = active and compare_with_active(
        trained.model,
        snapshot,
        train,
        holdout,
        active=active,
        versions_dir=run.settings.versions_dir,
        holdout_fraction=run.recipe.hyperparameters.holdout_fraction,
        scale=scale,
    )
    if comparison:
        run.metrics.gate = comparison.metrics()
        comparison.refuse_if_worse(run.settings.training.gate_margin, run.recipe.loss)


def _fit_all(run: _Run, ratings: Ratings, evaluated: TrainedModel | None, plan: WarmPlan | None) -> TrainedModel:
    """A fit of all ratings, for as many epochs as the evaluated fit found best."""
    start: WarmStart | None = None
    if plan:
        with run.timed("start"):
            start = plan.start_of_fit(plan.published, ratings, plan.changed)
    fit = _fit(run, "final", ratings, plan, start, evaluated=evaluated)
    if run.stage is None:
        return TrainedModel(fit, None)
    with run.timed("final_posterior"):
        earlier = plan.start_of_chain(plan.published_average, ratings) if plan else None
        first = evaluated.average if evaluated else None
        average = run.stage.average(run.lease, "resample", fit, ratings, earlier, first=first)
        run.add_to_curve("resample", average.sweeps)
    return TrainedModel(fit, average)


def _fit(
    run: _Run,
    phase: Phase,
    ratings: Ratings,
    plan: WarmPlan | None,
    start: WarmStart | None,
    *,
    holdout: Ratings | None = None,
    evaluated: TrainedModel | None = None,
) -> Fit:
    """A fit evaluated on the hold-out, or of all ratings for as many epochs as the evaluated fit found best."""
    hyperparameters = plan.hyperparameters if plan else run.recipe.hyperparameters
    trainer = LocalTrainer(run.settings.training.n_threads, run.settings.kernels_dir, run.recipe.loss)
    options: dict[str, Any] = {"start": start, "is_cancelled": run.lease.must_stop}
    options["on_epoch"] = lambda report: run.lease.report(phase, report)
    seconds_of = "fit" if phase == "fit" else "final_fit"
    with run.timed(seconds_of):
        if evaluated:
            fit = refit(trainer, ratings, hyperparameters, evaluated.fit, **options)
        else:
            fit = trainer.fit(ratings, hyperparameters, holdout=holdout, **options)
    run.add_to_curve(phase, fit.epochs)
    run.add_seconds("layout", fit.layout_seconds)  # a phase of its own, not part of the fit around it
    run.add_seconds(seconds_of, -fit.layout_seconds)
    return fit


def _publish(run: _Run, snapshot: TrainingSnapshot, published: TrainedModel, evaluated: TrainedModel | None) -> int:
    is_large = len(snapshot.ratings) >= run.settings.training.warm_start_min_ratings
    contents = publish.contents_of(snapshot, published, evaluated, with_starts=is_large)
    with run.timed("publish"):
        written = publish.write_version(
            run.settings.versions_dir, contents, snapshot, run.recipe, run.metrics, run.learning_curve
        )
    return publish.activate(run.lease, written, run.metrics)


def _stop(run: _Run) -> None:
    """Cancel the run if that was requested; hand it back if the process is stopping; else the lease is lost."""
    lease = run.lease
    if lease.is_cancel_requested:
        _finish(run, "cancelled")
    elif lease.is_lost:
        raise LeaseLost(lease.claim)
    else:
        lease.write(lambda connection, now: queue.hand_back(connection, lease.claim, now))
        log.info("run %d was returned to the queue", lease.claim.run_id)


def _finish(run: _Run, status: RunStatus, error: str | None = None) -> None:
    columns = {"error": error, "metrics": run.metrics.to_json()}
    run.lease.write(lambda connection, now: queue.finish(connection, run.lease.claim, status, now, **columns))
    log.info("run %d %s%s", run.lease.claim.run_id, status, f": {error}" if error else "")


def phase_table(seconds: Mapping[str, float]) -> str:
    """One line per phase: its seconds, its share of the run, and what bounds it."""
    total = sum(seconds.values())
    lines = [
        f"{phase:10}{seconds[phase]:9.3f} s {seconds[phase] / max(total, 1e-9):6.1%}   {bound}"
        for phase, bound in BOUNDS.items()
        if phase in seconds
    ]
    return "\n".join([*lines, f"{'total':10}{total:9.3f} s"])
