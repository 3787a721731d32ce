from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from app.db.engine import Database
from app.engine.data.ratings import Ratings
from app.engine.hyperparameters import Hyperparameters
from app.engine.retrieval.brute_force import top_n
from app.items import store as items
from app.ratings.models import NewRating
from app.registry import artifacts, versions
from app.registry.live_model import LiveModel
from app.settings import Settings, Training
from app.training import queue
from app.training.posterior_stage import PosteriorStage, projected_seconds
from app.training.schemas import progress_of
from tests.training.world import fill, ratings_of, train

AVERAGED = Hyperparameters(n_factors=8, n_epochs=20, patience=8, posterior="on", n_sweeps=30)
FEW = Ratings.of([0, 1], [0, 1], [1.0, 2.0], n_users=2, n_items=2)


def _stage(chosen: Hyperparameters, *, is_squared: bool = True, limit: float = 600.0) -> PosteriorStage | None:
    return PosteriorStage.of(
        chosen,
        FEW,
        is_squared=is_squared,
        settings=Training(n_threads=1, posterior_time_limit=timedelta(seconds=limit)),
    )


def test_averaging_is_done_where_time_allows_unless_somebody_decides() -> None:
    auto, on, off = (Hyperparameters(posterior=choice) for choice in ("auto", "on", "off"))
    assert _stage(auto)
    assert not _stage(auto, limit=1e-6)
    assert _stage(on, limit=1e-6)
    assert not _stage(off)
    assert not _stage(on, is_squared=False)


def test_the_projection_grows_with_the_ratings_and_falls_with_the_threads() -> None:
    many = Ratings.of(range(2000), [0] * 2000, [1.0] * 2000, n_users=2000, n_items=1)
    assert projected_seconds(many, 100, 1) > 50 * projected_seconds(FEW, 100, 1)
    assert projected_seconds(many, 100, 4) == pytest.approx(projected_seconds(many, 100, 1) / 4)


def test_a_run_publishes_the_average_and_reports_it(database: Database, settings: Settings) -> None:
    fill(database, ratings_of(100, 60))
    run = train(database, settings, AVERAGED)
    assert run.status == "succeeded", run.error
    stage = run.metrics["posterior"]
    assert stage["is_on"]
    assert stage["n_sweeps"] <= 30
    assert run.metrics["seconds"].keys() >= {"posterior", "final_posterior"}
    live = LiveModel(database, settings)
    live.refresh()
    assert live.current is not None
    model = live.current.model
    assert model.posterior is not None
    assert model.n_factors == stage["n_factors"] <= 16
    assert int(model.user_counts.sum()) == run.n_ratings


def test_every_sweep_is_recorded_and_part_of_the_learning_curve(database: Database, settings: Settings) -> None:
    fill(database, ratings_of(100, 60))
    run = train(database, settings, AVERAGED)
    n_sweeps = run.metrics["posterior"]["n_sweeps"]
    with database.read() as connection:
        recorded = queue.epochs_of(connection, run.id)
        version = versions.find_active(connection)
    assert version is not None
    for phase in ("sample", "resample"):
        sweeps = [row for row in recorded if row.phase == phase]
        assert [row.epoch for row in sweeps] == list(range(1, n_sweeps + 1))
        assert all(row.learning_rate == 0.0 and row.train_rmse > 0 for row in sweeps)
        drawn = [point for point in version.manifest["learning_curve"] if point["phase"] == phase]
        assert [point["holdout_rmse"] for point in drawn] == [row.holdout_rmse for row in sweeps]
    watched = [row.holdout_rmse for row in recorded if row.phase == "sample"]
    assert watched[-1] == pytest.approx(run.metrics["posterior"]["holdout_rmse"], abs=1e-6)
    assert progress_of(run, recorded) == 1.0


def test_progress_counts_the_sweeps_where_a_run_averages(database: Database, settings: Settings) -> None:
    fill(database, ratings_of(100, 60))
    run = train(database, settings, AVERAGED)
    with database.read() as connection:
        recorded = queue.epochs_of(connection, run.id)
    values = {**run._mapping, "status": "running"}
    shares = [progress_of(SimpleNamespace(**values), recorded[:n]) for n in range(1, len(recorded) + 1)]  # type: ignore[arg-type]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0, abs=0.41)  # a chain may settle early


def test_only_large_versions_store_the_fits_that_warm_runs_start_from(database: Database, settings: Settings) -> None:
    fill(database)
    large = settings.model_copy(update={"training": Training(warm_start_min_ratings=1)})
    for chosen, is_kept in ((settings, False), (large, True)):
        train(database, chosen, AVERAGED)
        with database.read() as connection:
            row = versions.find_active(connection)
        assert row is not None
        starts = artifacts.load_starts(settings.versions_dir / row.folder, row.manifest)
        holdout_fit = artifacts.load_holdout_fit(settings.versions_dir / row.folder, row.manifest)
        assert holdout_fit is not None
        assert (holdout_fit.model.n_users > 0) == is_kept
        assert holdout_fit.model.posterior is not None
        assert bool(starts) == is_kept
        if starts:
            assert [start.n_factors for start in starts] == [8, 8]
            assert all(start.n_users and start.posterior is None for start in starts)


def test_a_warm_run_goes_on_from_the_starts(database: Database, settings: Settings) -> None:
    warm = settings.model_copy(update={"training": Training(warm_start_min_ratings=1, warm_start_max_drift=0.5)})
    given = ratings_of(100, 60)
    fill(database, given[:-40])
    first = train(database, warm, AVERAGED)
    fill(database, given[-40:])
    second = train(database, warm, AVERAGED)
    assert second.metrics["start"]["is_warm"], second.metrics["start"]
    assert second.metrics["start"]["from_version"] == first.version
    assert second.metrics["posterior"]["is_on"]
    assert second.metrics["posterior"]["n_sweeps"] <= 12 < first.metrics["posterior"]["n_sweeps"]
    assert second.metrics["holdout_rmse"] < 1.02 * first.metrics["holdout_rmse"]


KINDS = {kind: [f"item-{number}" for number in range(60) if number % 2 == place] for place, kind in enumerate("ab")}
NEW = {"new-a": ["a"], "new-b": ["b"], "undescribed": []}


def _described_world(database: Database) -> None:
    """Two kinds of items, as `ratings_of` makes them, and their kinds as categories; three items that nobody rated."""
    fill(database, ratings_of(100, 60))
    with database.write() as connection:
        of_kinds = {item_id: [kind] for kind, item_ids in KINDS.items() for item_id in item_ids}
        items.write_many(connection, {name: {"categories": kinds} for name, kinds in (of_kinds | NEW).items()})


def test_items_that_nobody_rated_are_predicted_and_recommended_by_their_categories(
    database: Database, settings: Settings
) -> None:
    _described_world(database)
    run = train(database, settings, AVERAGED)
    assert run.status == "succeeded", run.error
    assert run.metrics["categories"] == {"n_features": 3, "n_unrated_items": 2}
    live = LiveModel(database, settings)
    live.refresh()
    loaded = live.current
    assert loaded is not None
    assert loaded.item_ids.row_of("undescribed") is None
    new = loaded.item_ids.rows_of(["new-a", "new-b"])
    assert loaded.model.item_counts[new].tolist() == [0, 0]
    rated = loaded.item_ids.rows_of(["item-0", "item-2", "item-1", "item-3"])
    user = loaded.fold_in.fold_in(rated, [5.0, 5.0, 1.0, 1.0])
    of_a, of_b = loaded.fold_in.predict(user, new)[0].tolist()
    assert of_a > 3.5 > 2.5 > of_b
    assert new[0] in top_n(loaded.model, user, 40)[0]
    assert new[1] not in top_n(loaded.model, user, 30)[0]
    fuller = loaded.fold_in.fold_in(np.append(rated, new[1]), [5.0, 5.0, 1.0, 1.0, 5.0])
    assert loaded.fold_in.predict(fuller, new[1:])[0] > of_b


def test_a_run_with_categories_gives_the_same_model_whatever_the_order_of_the_items(
    database: Database, settings: Settings
) -> None:
    _described_world(database)
    first = train(database, settings, AVERAGED)
    with database.write() as connection:  # told again, in another order and with another revision
        items.write_many(connection, {name: {"categories": [*kinds, "later"]} for name, kinds in NEW.items()})
        items.write_many(connection, {name: {"categories": kinds} for name, kinds in reversed(NEW.items())})
    second = train(database, settings, AVERAGED)
    with database.read() as connection:
        rows = [versions.get(connection, run.version) for run in (first, second)]
    assert rows[0].manifest["model_digest"] == rows[1].manifest["model_digest"]
    assert rows[0].manifest["data_digest"] == rows[1].manifest["data_digest"]


def test_without_averaging_items_that_nobody_rated_have_no_row(database: Database, settings: Settings) -> None:
    _described_world(database)
    train(database, settings, AVERAGED.replace(posterior="off"))
    live = LiveModel(database, settings)
    live.refresh()
    assert live.current is not None
    assert live.current.item_ids.row_of("new-a") is None


def test_a_warm_run_knows_no_more_of_an_item_than_its_ratings(database: Database, settings: Settings) -> None:
    """An unrated item has a row in the version; rated at last, it is as new as one that was not there."""
    warm = settings.model_copy(update={"training": Training(warm_start_min_ratings=1, warm_start_max_drift=0.5)})
    _described_world(database)
    first = train(database, warm, AVERAGED)
    fill(database, [NewRating(f"user-{number}", "new-b", 4.5) for number in range(40)])
    second = train(database, warm, AVERAGED)
    assert second.metrics["start"]["is_warm"], second.metrics["start"]
    assert second.metrics["start"]["from_version"] == first.version
    live = LiveModel(database, settings)
    live.refresh()
    assert live.current is not None
    assert live.current.model.item_bias[live.current.item_ids.rows_of(["new-b"])[0]] > 0.3
