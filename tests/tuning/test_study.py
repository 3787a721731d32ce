import os
import signal
import threading
from datetime import timedelta

import pytest

from app import worker
from app.db.engine import Database
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.declare import declare
from app.engine.recipe import Recipe
from app.engine.search.trials import best_of
from app.ratings import store as ratings_store
from app.ratings.models import NewRating
from app.registry import versions
from app.settings import RetrainPolicy, Settings
from app.training import queue
from app.training.retrain_policy import RetrainMonitor
from app.tuning import store
from app.tuning.study import execute
from tests.training.world import QUICK, active, claim, fill, run_of, start_worker, wait_until
from tests.training.world import enqueue as enqueue_training
from tests.tuning.world import GRID, RECIPE, enqueue, results, search, search_of, spec, trials_of

ENDLESS = {"n_factors": {"choices": [64]}, "n_epochs": {"choices": [10_000]}, "patience": {"choices": [10_000]}}


def test_a_grid_tries_every_combination_and_the_lowest_error_is_the_best(
    database: Database, settings: Settings
) -> None:
    fill(database)
    done = search(database, settings, spec(GRID, strategy="grid", pruning="none"))
    trials = trials_of(database, done.id)
    assert (done.status, done.n_trials, done.version) == ("succeeded", 4, None)
    assert [trial.parameters for trial in trials] == [
        {"n_factors": n_factors, "n_epochs": n_epochs} for n_factors in (2, 4) for n_epochs in (4, 8)
    ]
    best = best_of(trials)
    assert best is not None
    assert best.value == min(trial.value or 9.0 for trial in trials)
    assert done.metrics["search"]["best_trial"] == best.number
    assert active(database) is None


def test_the_best_is_trained_on_all_ratings_and_published_through_the_gate(
    database: Database, settings: Settings
) -> None:
    fill(database)
    done = search(database, settings, spec(n_trials=4, publish=True))
    assert done.status == "succeeded"
    assert done.version == active(database) is not None
    with database.read() as connection:
        manifest = versions.get(connection, done.version).manifest
    best = best_of(trials_of(database, done.id))
    assert best is not None
    assert manifest["hyperparameters"] == QUICK.replace(**best.parameters).to_dict()
    assert manifest["metrics"]["search"]["search_id"] == done.id
    assert manifest["n_ratings"] == done.n_ratings


def test_the_loss_of_the_best_trial_is_published_and_used_later(database: Database, settings: Settings) -> None:
    fill(database)
    space = {"loss": {"choices": ["huber", "logistic"]}, "loss.delta": {"low": 0.5, "high": 2}}
    done = search(database, settings, spec(space, n_trials=3, strategy="random", publish=True, seed=1))
    best = best_of(trials_of(database, done.id))
    assert best is not None
    chosen = RECIPE.with_values(best.parameters)
    assert (done.status, chosen.loss.name) == ("succeeded", best.parameters["loss"])
    with database.read() as connection:
        assert versions.get(connection, done.version).manifest["loss"] == chosen.loss.to_dict()
        assert store.published_recipe(connection, RECIPE) == chosen


def test_a_search_minimises_the_requested_loss(database: Database, settings: Settings) -> None:
    fill(database)
    base = Recipe(QUICK, declare("huber", parameters={"delta": 0.5}), (0.5, 5.0))
    space = {"loss.delta": {"choices": [0.5, 2]}}
    done = search(database, settings, spec(space, strategy="grid", base=base, publish=True))
    first, second = trials_of(database, done.id)
    assert first.value != second.value
    best = best_of([first, second])
    assert best is not None
    with database.read() as connection:
        manifest = versions.get(connection, done.version).manifest
    assert manifest["loss"]["parameters"] == {"delta": best.parameters["loss.delta"]}


def test_a_trial_that_diverges_has_failed_with_its_reason_and_the_search_goes_on(
    database: Database, settings: Settings
) -> None:
    fill(database)
    space = {"learning_rate": {"choices": [1.0, 0.05]}, "initial_scale": {"choices": [1.0, 0.01]}}
    done = search(database, settings, spec(space, strategy="grid", base=QUICK.replace(n_factors=64)))
    failed, *_, fine = trials_of(database, done.id)
    assert (failed.status, failed.value) == ("failed", None)
    assert "diverged" in (failed.error or "")
    assert (fine.status, done.status) == ("complete", "succeeded")


def test_a_search_without_any_complete_trial_fails_and_says_why(database: Database, settings: Settings) -> None:
    fill(database)
    space = {"learning_rate": {"choices": [1.0]}, "initial_scale": {"choices": [1.0]}}
    done = search(database, settings, spec(space, strategy="grid", base=QUICK.replace(n_factors=64)))
    assert done.status == "failed"
    assert done.error.startswith("none of the 1 trials was completed: training diverged")


def test_a_search_with_too_few_ratings_fails_and_says_so(database: Database, settings: Settings) -> None:
    fill(database, [NewRating("ann", "dune", 4.0), NewRating("bob", "dune", 2.0)])
    done = search(database, settings, spec())
    assert done.status == "failed"
    assert "needs at least 20 held-out ratings to measure a trial; of 2 ratings" in done.error


@pytest.mark.parametrize("strategy", ["random", "tpe"])
def test_a_killed_search_continues_with_the_trials_that_it_would_have_done(
    database: Database, settings: Settings, strategy: str
) -> None:
    fill(database)
    training = settings.training.model_copy(update={"lease": timedelta(seconds=1)})
    short = settings.model_copy(update={"training": training, "retrain": RetrainPolicy(enabled=False)})
    request = spec(strategy=strategy, n_trials=40, seed=3)
    row = enqueue(database, request)
    first = start_worker(short)
    wait_until(lambda: len(trials_of(database, row.id)) >= 12)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = trials_of(database, row.id)
    assert len(before) < 40
    second = start_worker(short)
    wait_until(lambda: search_of(database, row.id).status == "succeeded")
    second.terminate()
    second.wait()
    resumed = trials_of(database, row.id)
    assert resumed[: len(before)] == before
    assert search_of(database, row.id).attempt == 2
    undisturbed = search(database, settings, request)
    assert results(resumed) == results(trials_of(database, undisturbed.id))


def test_a_search_lets_a_training_go_first_and_continues_after_it(database: Database, settings: Settings) -> None:
    fill(database)
    undisturbed = search(database, settings, spec(n_trials=5))
    row = enqueue(database, spec(n_trials=5))
    held = claim(database, settings)
    training = enqueue_training(database)
    execute(database, settings, held, is_stopping=lambda: False)
    assert search_of(database, row.id).status == "queued"
    assert len(trials_of(database, row.id)) == 1
    for expected in (training.id, row.id):
        held = claim(database, settings)
        assert held.run_id == expected
        worker.execute(database, settings, held, is_stopping=lambda: False)
    assert run_of(database, training.id).status == search_of(database, row.id).status == "succeeded"
    assert results(trials_of(database, row.id)) == results(trials_of(database, undisturbed.id))


def test_a_search_is_cancelled_between_epochs_and_keeps_its_trials(database: Database, settings: Settings) -> None:
    fill(database)
    row = enqueue(database, spec(ENDLESS, strategy="random", n_trials=3))
    held = claim(database, settings)
    working = threading.Thread(target=execute, args=(database, settings, held), kwargs={"is_stopping": lambda: False})
    working.start()
    with database.write() as connection:
        queue.request_cancel(connection, row.id, database.now(connection))
    working.join(30)
    assert not working.is_alive()
    assert search_of(database, row.id).status == "cancelled"
    assert trials_of(database, row.id) == []


def test_the_policy_may_request_a_training_while_a_search_runs(database: Database, settings: Settings) -> None:
    fill(database)
    enqueue(database, spec())
    claim(database, settings)
    policy = settings.retrain.model_copy(update={"min_changes": 1})
    with database.read() as connection:
        assert RetrainMonitor(policy, settings.versions_dir).is_due(connection, database.now(connection))


def test_a_search_does_not_count_as_having_learned_the_ratings(database: Database, settings: Settings) -> None:
    fill(database)
    search(database, settings, spec(GRID, strategy="grid"))
    policy = settings.retrain.model_copy(update={"min_changes": 1})
    with database.read() as connection:
        assert RetrainMonitor(policy, settings.versions_dir).is_due(connection, database.now(connection))


def test_new_ratings_do_not_move_others_between_the_folds(database: Database, settings: Settings) -> None:
    from app.training.snapshot.take import take_snapshot
    from app.tuning.study import _folds

    fill(database)
    before = take_snapshot(database)
    with database.write() as connection:
        ratings_store.save_many(connection, [NewRating(f"aa-{n}", "item-1", 3.0) for n in range(40)])
    after = take_snapshot(database)
    for (_, old), (_, new) in zip(_folds(before, 3, 0.05), _folds(after, 3, 0.05), strict=True):
        pairs = [
            {
                (snapshot.user_ids.id_of(user), snapshot.item_ids.id_of(item))
                for user, item in zip(part.user_rows.tolist(), part.item_rows.tolist(), strict=True)
            }
            for snapshot, part in ((before, old), (after, new))
        ]
        assert pairs[0] == {pair for pair in pairs[1] if not pair[0].startswith("aa-")}


def test_every_rating_is_held_out_of_exactly_one_fold(database: Database) -> None:
    from app.training.snapshot.take import take_snapshot
    from app.tuning.study import _folds

    fill(database)
    snapshot = take_snapshot(database)
    folds = _folds(snapshot, 4, 0.05)
    n = len(snapshot.ratings)
    assert sum(len(held_out) for _, held_out in folds) == n
    assert all(len(learned) + len(held_out) == n for learned, held_out in folds)
    places = [set(zip(held.user_rows.tolist(), held.item_rows.tolist(), strict=True)) for _, held in folds]
    assert len(set.union(*places)) == n


def test_defaults_of_the_engine_can_be_searched_around(database: Database, settings: Settings) -> None:
    fill(database)
    done = search(database, settings, spec(base=Hyperparameters(n_epochs=3), n_trials=2))
    assert done.status == "succeeded"
