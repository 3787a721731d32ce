from typing import Any

import numpy as np
import pytest

from app.db.engine import Database
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.catalog import SQUARED
from app.engine.losses.declare import declare
from app.engine.recipe import Recipe
from app.engine.sgd import warm_start
from app.ratings.models import NewRating
from app.registry import artifacts, versions
from app.settings import Settings, Training
from app.training.snapshot.take import split, take_snapshot
from app.training.warm_start import plan_warm_run
from tests.training.world import active, fill, ratings_of, train

CHOSEN = Hyperparameters(n_factors=4, n_epochs=40, holdout_fraction=0.2, posterior="off")
FEW = ratings_of(100, 60)


def _some(n: int, user: str = "user") -> list[NewRating]:
    """New values for ratings of n users."""
    return [NewRating(f"{user}-{u}", f"item-{i}", 4.75 if (u + i) % 2 == 0 else 1.25) for u in range(n) for i in (1, 2)]


@pytest.fixture
def warm(settings: Settings) -> Settings:
    """Settings under which even a small world is worth a warm start."""
    return settings.model_copy(
        update={"training": Training(warm_start_min_ratings=1, warm_start_max_drift=0.5, cold_start_every=4)}
    )


def _start_of(database: Database) -> dict[str, Any]:
    with database.read() as connection:
        start: dict[str, Any] = versions.get_active(connection).manifest["start"]
    return start


def test_a_warm_run_starts_from_the_active_version(database: Database, warm: Settings) -> None:
    fill(database, FEW)
    first = train(database, warm, CHOSEN)
    assert first.metrics["start"] == {
        "is_warm": False,
        "reason": "there is no active version",
        "n_warm_in_a_row": 0,
        "drift": 1.0,
    }
    fill(database, [*_some(8), *_some(5, "new-user")])
    second = train(database, warm, CHOSEN)
    assert second.status == "succeeded"
    start = second.metrics["start"]
    assert (start["is_warm"], start["from_version"], start["n_warm_in_a_row"]) == (True, first.version, 1)
    assert 0 < start["n_changed"] <= 26
    assert start["drift"] == pytest.approx(second.metrics["gate"]["rmse"] / second.metrics["gate"]["active_rmse"], 1e-4)
    assert _start_of(database) == start
    assert second.metrics["best_epoch"] == 1
    assert second.metrics["holdout_rmse"] < 1.05 * first.metrics["holdout_rmse"]
    assert second.metrics["seconds"].keys() >= {"load", "start", "layout", "fit", "evaluate", "final_fit", "publish"}


def test_the_published_version_of_a_warm_run_knows_every_rating(database: Database, warm: Settings) -> None:
    fill(database, FEW)
    train(database, warm, CHOSEN)
    fill(database, _some(5, "new-user"))
    train(database, warm, CHOSEN)
    with database.read() as connection:
        row = versions.get_active(connection)
    loaded = artifacts.load(warm.versions_dir / row.folder, row.version)
    snapshot = take_snapshot(database)
    assert loaded.model.user_counts.sum() == len(snapshot.ratings)
    assert loaded.user_keys.tolist() == snapshot.user_keys.tolist()
    assert row.manifest["data_digest"] == snapshot.digest()


def test_every_nth_version_is_learned_anew(database: Database, warm: Settings) -> None:
    fill(database, FEW)
    in_a_row = []
    for turn in range(6):
        fill(database, _some(3, f"kind-{turn}"))
        in_a_row.append(train(database, warm, CHOSEN).metrics["start"]["n_warm_in_a_row"])
    assert in_a_row == [0, 1, 2, 3, 0, 1]


def test_what_is_held_out_stays_unseen_by_the_evaluated_fit(database: Database, warm: Settings) -> None:
    """It continues the fit that was evaluated, never from the published one, which has learned the hold-out."""
    fill(database, FEW)
    version = train(database, warm, CHOSEN).version
    fill(database, _some(5))
    with database.read() as connection:
        row = versions.get(connection, version)
    snapshot = take_snapshot(database, changed_since=row.trained_through)
    held_out = snapshot.holdout_mask(CHOSEN.holdout_fraction)
    plan = plan_warm_run(row, warm.versions_dir, snapshot, Recipe(CHOSEN), warm.training)
    learned, _ = split(snapshot.ratings, held_out)
    evaluated = plan.start_of_fit(plan.evaluated, learned, plan.changed[~held_out])
    published = plan.start_of_fit(plan.published, snapshot.ratings, plan.changed)
    folder = warm.versions_dir / row.folder
    holdout_fit, loaded = artifacts.load_holdout_fit(folder), artifacts.load(folder, row.version)
    assert holdout_fit is not None
    for name in ("user_factors", "item_factors", "user_bias", "item_bias"):
        assert np.array_equal(getattr(evaluated, name), getattr(holdout_fit.model, name))
        assert np.array_equal(getattr(published, name), getattr(loaded.model, name))
        assert not np.array_equal(getattr(evaluated, name), getattr(published, name))
    assert len(evaluated.ratings_to_learn) == (~held_out).sum()
    assert len(published.ratings_to_learn) == len(held_out)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 1}, "other hyperparameters: seed"),
        ({"n_factors": 5}, "other hyperparameters: n_factors"),
        ({"holdout_fraction": 0.3}, "other hyperparameters: holdout_fraction"),
    ],
)
def test_other_hyperparameters_start_cold(
    database: Database, warm: Settings, change: dict[str, Any], reason: str
) -> None:
    fill(database, FEW)
    train(database, warm, CHOSEN)
    fill(database, _some(3))
    assert reason in train(database, warm, CHOSEN.replace(**change)).metrics["start"]["reason"]


def test_no_or_too_many_changes_and_few_ratings_start_cold(database: Database, warm: Settings) -> None:
    fill(database, FEW)
    train(database, warm, CHOSEN)
    assert "no rating is newer" in train(database, warm, CHOSEN).metrics["start"]["reason"]
    fill(database, _some(40, "new-user"))
    assert "users are new" in train(database, warm, CHOSEN).metrics["start"]["reason"]
    fill(database, ratings_of(100, 60, seed=5))
    assert "are newer than" in train(database, warm, CHOSEN).metrics["start"]["reason"]
    fill(database, _some(2, "kind"))
    large_only = warm.model_copy(update={"training": Training()})
    assert "takes little time" in train(database, large_only, CHOSEN).metrics["start"]["reason"]


def test_a_version_that_kept_no_holdout_fit_with_users_is_not_gone_on_from(database: Database, warm: Settings) -> None:
    fill(database, FEW)
    train(database, warm.model_copy(update={"training": Training()}), CHOSEN)
    fill(database, _some(3))
    assert "did not store its evaluated fit" in train(database, warm, CHOSEN).metrics["start"]["reason"]


def test_a_damaged_version_leads_to_a_cold_start(database: Database, warm: Settings) -> None:
    fill(database, FEW)
    train(database, warm, CHOSEN)
    [folder] = artifacts.folders(warm.versions_dir)
    (folder / "user_factors.npy").write_bytes(b"damaged")
    fill(database, _some(3))
    run = train(database, warm, CHOSEN)
    assert (run.status, run.metrics["start"]["is_warm"]) == ("succeeded", False)


def test_a_warm_fit_that_is_worse_is_repeated_cold_in_the_same_run(
    database: Database, warm: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, FEW)
    train(database, warm, CHOSEN)
    fill(database, _some(5))
    strict = warm.model_copy(
        update={"training": Training(warm_start_min_ratings=1, warm_start_max_drift=0.0, gate_margin=9.0)}
    )
    monkeypatch.setattr(warm_start, "STEP_SHARE", 8.0)
    run = train(database, strict, CHOSEN)
    assert run.status == "succeeded"
    assert "in a row are worse" in run.metrics["start"]["reason"]
    assert run.metrics["best_epoch"] > 1
    assert run.version == active(database)


def test_drift_adds_up_over_the_warm_versions(database: Database, warm: Settings) -> None:
    fill(database, FEW)
    product = 1.0
    for turn in range(3):
        fill(database, _some(3, f"kind-{turn}"))
        run = train(database, warm, CHOSEN)
        if turn:
            product *= run.metrics["gate"]["rmse"] / run.metrics["gate"]["active_rmse"]
    assert run.metrics["start"]["drift"] == pytest.approx(product, abs=1e-4)


def test_the_same_history_gives_the_same_warm_model(
    database: Database, warm: Settings, settings: Settings, tmp_path: Any
) -> None:
    fill(database, FEW)
    train(database, warm, CHOSEN)
    fill(database, _some(5))
    train(database, warm, CHOSEN)
    with database.read() as connection:
        newest, cold = versions.history(connection, limit=2)
    versions.activate(database, warm.versions_dir, cold.version)
    train(database, warm, CHOSEN)
    with database.read() as connection:
        again = versions.get_active(connection)
    assert again.manifest["start"]["is_warm"]
    assert again.digest == newest.digest


def test_another_loss_starts_cold_and_the_same_one_warm(database: Database, warm: Settings) -> None:
    fill(database, FEW)
    huber = declare("huber", parameters={"delta": 1.5})
    starts, patient = [], CHOSEN.replace(patience=40)  # in this world nothing is learned for some epochs
    for turn, loss in enumerate((SQUARED, huber, huber, declare("huber"), SQUARED)):
        fill(database, _some(3, f"kind-{turn}"))
        run = train(database, warm, patient, loss=loss)
        assert run.status == "succeeded", run.error
        starts.append(run.metrics["start"])
    assert [start["is_warm"] for start in starts] == [False, False, True, False, False]
    assert starts[1]["reason"] == "the active version was fitted with another loss"


def test_a_warm_run_with_a_link_starts_from_its_scores(database: Database, warm: Settings) -> None:
    fill(database, FEW)
    loss = declare("logistic", rating_range=(warm.rating.min, warm.rating.max))
    first = train(database, warm, CHOSEN, loss=loss)
    fill(database, _some(5, "new-user"))
    second = train(database, warm, CHOSEN, loss=loss)
    assert second.status == "succeeded", second.error
    assert second.metrics["start"]["is_warm"]
    assert second.metrics["holdout_rmse"] < 1.1 * first.metrics["holdout_rmse"]
