import pytest

from app.db.engine import Database
from app.engine.losses.catalog import SQUARED
from app.engine.losses.declare import declare
from app.engine.recipe import Recipe
from app.engine.search.trials import Trial, best_of
from app.settings import Settings
from app.tuning import store
from tests.training.world import QUICK, fill
from tests.tuning.world import GRID, RECIPE, enqueue, search, spec, trials_of

TRIAL = Trial(0, {"n_factors": 2, "n_epochs": 4}, "complete", 0.9, 1.5, (1.0, 0.9), None)


def test_a_stored_search_has_the_spec_that_was_requested_with_the_trials_of_its_grid(database: Database) -> None:
    request = spec(GRID, strategy="grid", n_trials=100, seed=3, n_folds=2, pruning="none", publish=True)
    row = enqueue(database, request)
    stored = store.spec_of(row)
    assert (row.n_trials, stored.n_trials) == (4, 4)
    assert (stored.base, stored.defaults, stored.space) == (request.base, request.defaults, request.space)
    assert (stored.strategy, stored.seed, stored.n_folds, stored.pruning, stored.publish) == (
        "grid",
        3,
        2,
        "none",
        True,
    )


def test_a_trial_that_is_recorded_twice_is_stored_once(database: Database) -> None:
    row = enqueue(database, spec())
    for _ in range(2):
        with database.write() as connection:
            store.record_trial(connection, row.id, TRIAL, 7, database.now(connection))
    assert trials_of(database, row.id) == [TRIAL]


def test_a_search_that_does_not_exist_is_unknown(database: Database) -> None:
    with database.read() as connection, pytest.raises(store.UnknownSearch, match="search 9 does not exist"):
        store.get(connection, 9)


def test_later_runs_of_the_policy_use_a_published_search_until_the_settings_change(
    database: Database, settings: Settings
) -> None:
    fill(database)
    done = search(database, settings, spec(n_trials=3, publish=True))
    best = best_of(trials_of(database, done.id))
    assert best is not None
    with database.read() as connection:
        assert store.published_recipe(connection, RECIPE) == RECIPE.with_values(best.parameters)
        assert store.published_recipe(connection, Recipe(QUICK.replace(seed=1), SQUARED, (0.5, 5.0))) is None
        assert store.published_recipe(connection, Recipe(QUICK, declare("huber"), (0.5, 5.0))) is None
        assert store.published_recipe(connection, Recipe(QUICK, SQUARED, (1.0, 5.0))) is None


def test_a_search_that_was_not_published_changes_nothing_for_later_runs(database: Database, settings: Settings) -> None:
    fill(database)
    search(database, settings, spec(n_trials=2))
    with database.read() as connection:
        assert store.published_recipe(connection, RECIPE) is None
