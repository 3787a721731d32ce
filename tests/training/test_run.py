import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from app.db.engine import Database
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.catalog import SQUARED
from app.engine.losses.declare import declare
from app.ratings.models import NewRating
from app.registry import artifacts, versions
from app.registry.live_model import LiveModel
from app.settings import Settings
from app.training.queue import Epoch
from app.training.run import execute, phase_table
from app.training.snapshot.take import take_snapshot
from tests.training.world import (
    QUICK,
    active,
    claim,
    enqueue,
    epochs_of,
    fill,
    listed,
    ratings_of,
    train,
)


def test_a_run_publishes_a_version_that_has_learned_every_rating(database: Database, settings: Settings) -> None:
    fill(database)
    run = train(database, settings)
    assert (run.status, run.error, run.version) == ("succeeded", None, active(database))
    snapshot = take_snapshot(database)
    assert run.n_ratings == len(snapshot.ratings)
    assert run.trained_through == snapshot.revision
    live = LiveModel(database, settings)
    live.refresh()
    loaded = live.current
    assert loaded is not None
    assert int(loaded.model.user_counts.sum()) == len(snapshot.ratings)
    assert loaded.user_keys.tolist() == snapshot.user_keys.tolist()
    assert loaded.item_keys.tolist() == snapshot.item_keys.tolist()
    assert loaded.trained_through == snapshot.revision


def test_a_planted_structure_is_learned(database: Database, settings: Settings) -> None:
    fill(database, ratings_of(100, 60))
    run = train(database, settings, Hyperparameters(n_factors=4, n_epochs=40))
    assert run.metrics["holdout_rmse"] < 0.6 < 1.4 < run.metrics["holdout_rmse_item_means"]
    assert 0.6 < run.metrics["holdout_interval_80_coverage"] <= 1.0
    assert run.metrics["holdout_mae"] < run.metrics["holdout_rmse"]
    assert run.metrics["seconds"].keys() == {
        *("load", "layout", "fit", "posterior", "evaluate"),
        *("final_fit", "final_posterior", "publish"),
    }
    assert run.metrics["n_holdout"] > 100


def test_both_phases_are_recorded_epoch_by_epoch(database: Database, settings: Settings) -> None:
    fill(database)
    run = train(database, settings)
    best = run.metrics["best_epoch"]
    epochs = epochs_of(database, run.id)
    assert epochs[:best] == [("fit", n) for n in range(1, best + 1)]
    assert [epoch for epoch in epochs if epoch[0] == "final"] == [("final", n) for n in range(1, best + 1)]


def test_the_manifest_says_how_the_version_was_made(database: Database, settings: Settings) -> None:
    fill(database)
    run = train(database, settings)
    with database.read() as connection:
        manifest = versions.get_active(connection).manifest
    assert Hyperparameters.from_dict(manifest["hyperparameters"]) == QUICK
    assert manifest["data_digest"] == take_snapshot(database).digest()
    assert manifest["loss"] == SQUARED.to_dict()
    assert manifest["metrics"]["holdout_rmse"] == run.metrics["holdout_rmse"]
    assert len(manifest["learning_curve"]) == len(epochs_of(database, run.id))
    assert manifest["software"].keys() == {"palate", "python", "numpy", "numba"}


def test_the_same_ratings_and_seed_give_the_same_model(database: Database, settings: Settings) -> None:
    fill(database)
    train(database, settings), train(database, settings)
    train(database, settings, QUICK.replace(seed=1))
    with database.read() as connection:
        newest, second, first = (row.digest for row in versions.history(connection, limit=3))
    assert first == second
    assert newest != first


def test_few_ratings_are_learned_in_one_fit_without_a_hold_out(database: Database, settings: Settings) -> None:
    fill(database, [NewRating("ann", "dune", 4.0), NewRating("bob", "dune", 2.0)])
    run = train(database, settings)
    assert run.status == "succeeded"
    assert {phase for phase, _ in epochs_of(database, run.id)} == {"final"}
    assert "holdout_rmse" not in run.metrics


@pytest.mark.parametrize("n", [0, 1])
def test_less_than_two_ratings_fail_with_the_reason(database: Database, settings: Settings, n: int) -> None:
    fill(database, [NewRating("ann", "dune", 4.0)][:n])
    run = train(database, settings)
    assert (run.status, run.error) == ("failed", f"training needs at least 2 ratings; there are {n}")
    assert listed(database) == []


def test_a_fit_that_diverges_fails_with_the_reason(database: Database, settings: Settings) -> None:
    fill(database)
    run = train(database, settings, Hyperparameters(n_factors=4, learning_rate=1.0, regularization=0.0, n_epochs=50))
    assert run.status == "failed"
    assert run.error.startswith("training diverged in epoch ")
    assert listed(database) == []


def test_an_unexpected_error_fails_the_run_and_is_logged(
    database: Database, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    fill(database)
    settings.versions_dir.write_text("not a folder")
    run = train(database, settings)
    assert run.status == "failed"
    assert run.error.startswith("FileExistsError: ")
    assert any(record.exc_info for record in caplog.records)
    settings.versions_dir.unlink()
    assert train(database, settings).status == "succeeded"


# The gate


def test_a_fit_that_is_clearly_worse_is_rejected_and_the_active_version_stays(
    database: Database, settings: Settings
) -> None:
    fill(database, ratings_of(100, 60))
    good = train(database, settings, Hyperparameters(n_factors=4, n_epochs=40))
    bad = train(database, settings, Hyperparameters(n_factors=4, n_epochs=1, learning_rate=1e-6, posterior="off"))
    assert bad.status == "rejected"
    assert bad.error.startswith(f"hold-out error {bad.metrics['gate']['rmse']:.4f} is worse than ")
    assert bad.metrics["gate"]["active_rmse"] < bad.metrics["gate"]["rmse"]
    assert listed(database) == [good.version]
    assert active(database) == good.version


def test_the_same_fit_again_is_no_worse_than_itself(database: Database, settings: Settings) -> None:
    fill(database)
    train(database, settings)
    again = train(database, settings)
    assert again.status == "succeeded"
    assert again.metrics["gate"]["rmse"] == again.metrics["gate"]["active_rmse"]


def test_the_active_version_is_compared_only_on_ratings_that_it_has_not_learned(
    database: Database, settings: Settings
) -> None:
    fill(database, ratings_of(100, 60))
    train(database, settings, QUICK.replace(holdout_fraction=0.05))
    later = train(database, settings, QUICK.replace(holdout_fraction=0.3))
    held_out = take_snapshot(database).holdout_mask(0.05)
    assert later.metrics["gate"]["n_ratings"] == held_out.sum()
    assert later.metrics["n_holdout"] > 4 * held_out.sum()


def test_new_users_and_items_do_not_affect_the_comparison(database: Database, settings: Settings) -> None:
    fill(database, ratings_of(60, 40))
    train(database, settings)
    fill(database, ratings_of(90, 70, seed=2))
    later = train(database, settings)
    assert later.status == "succeeded"
    assert later.metrics["gate"]["active_rmse"] > later.metrics["gate"]["rmse"]


def test_a_damaged_active_version_does_not_stop_a_new_one(database: Database, settings: Settings) -> None:
    fill(database)
    first = train(database, settings)
    for folder in artifacts.folders(settings.versions_dir):
        (folder / "item_bias.npy").unlink()
    second = train(database, settings)
    assert second.status == "succeeded"
    assert active(database) == second.version != first.version


def test_epochs_are_reported_as_they_end(database: Database, settings: Settings) -> None:
    fill(database)
    enqueue(database)
    seen: list[Epoch] = []
    execute(database, settings, claim(database, settings), is_stopping=lambda: False, on_epoch=seen.append)
    assert [epoch.report.epoch for epoch in seen if epoch.phase == "fit"] == list(
        range(1, 1 + sum(epoch.phase == "fit" for epoch in seen))
    )
    assert np.isfinite([epoch.report.train_rmse for epoch in seen]).all()


HUBER = declare("huber", parameters={"delta": 1.5})


def test_a_declared_loss_is_trained_stored_with_the_version_and_served(database: Database, settings: Settings) -> None:
    fill(database)
    loss = declare("logistic", rating_range=(settings.rating.min, settings.rating.max))
    run = train(database, settings, loss=loss)
    assert (run.status, run.error) == ("succeeded", None)
    with database.read() as connection:
        row = versions.get(connection, run.version)
    assert row.manifest["loss"] == loss.to_dict() == run.loss
    loaded = artifacts.load(settings.versions_dir / row.folder, row.version, row.manifest)
    assert loaded.model.loss == loss
    user = loaded.fold_in.fold_in([0, 1], [5.0, 1.0])
    predicted, _ = loaded.fold_in.predict(user, np.arange(loaded.model.n_items))
    assert settings.rating.min < predicted.min() < predicted.max() < settings.rating.max


def test_a_loss_that_is_no_number_on_these_ratings_fails_the_run_with_the_place(
    database: Database, settings: Settings
) -> None:
    fill(database)
    run = train(database, settings, loss=declare("(r - r_hat)**2 + log(r - 3)"))
    assert run.status == "failed"
    assert run.error is not None
    assert run.error.startswith(
        "this takes the logarithm of zero or a negative number at character 18, at 'log(r - 3)'"
    )
    assert active(database) is None


def test_a_better_version_by_another_loss_is_published_and_a_worse_one_is_not(
    database: Database, settings: Settings
) -> None:
    fill(database, ratings_of(100, 60))
    thorough = Hyperparameters(n_factors=4, n_epochs=40, learning_rate=0.06, posterior="off")
    train(database, settings, thorough)
    assert train(database, settings, thorough, loss=HUBER).status == "succeeded"
    lazy = Hyperparameters(n_factors=4, n_epochs=1, learning_rate=1e-6)
    assert train(database, settings, lazy, loss=HUBER).status == "rejected"


def test_the_gate_judges_a_quantile_loss_by_its_own_error_and_not_the_squared_one(
    database: Database, settings: Settings
) -> None:
    fill(database, ratings_of(100, 60))
    thorough = Hyperparameters(n_factors=4, n_epochs=40, learning_rate=0.06, posterior="off")
    first = train(database, settings, thorough)
    low = train(database, settings, thorough, loss=declare("quantile", parameters={"level": 0.05}))
    assert (first.status, low.status) == ("succeeded", "succeeded")
    assert low.metrics["holdout_rmse"] > first.metrics["holdout_rmse"]


def test_the_small_solves_of_a_run_take_one_thread_each(database: Database, settings: Settings) -> None:
    fill(database)
    enqueue(database)
    seen = []

    def look(_: Epoch) -> None:
        seen.append({each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"})

    with threadpool_limits(2):
        execute(database, settings, claim(database, settings), is_stopping=lambda: False, on_epoch=look)
    assert seen
    assert all(threads == {1} for threads in seen)


def test_the_phase_table_shows_seconds_share_and_bound_of_each_phase() -> None:
    table = phase_table({"load": 3.0, "fit": 1.0})
    assert [line.split()[:3] for line in table.splitlines()[:2]] == [["load", "3.000", "s"], ["fit", "1.000", "s"]]
    assert "75.0%" in table
    assert "the database" in table
    assert table.splitlines()[-1].split() == ["total", "4.000", "s"]
    assert np.char.count(table, "\n") == 2
