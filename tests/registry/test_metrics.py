"""Everything that a run measures is declared to clients, and returned as it is stored."""

from app.db.engine import Database
from app.engine.hyperparameters import Hyperparameters
from app.registry import versions
from app.registry.metrics import Gate, RunMetrics
from app.registry.schemas import Model
from app.settings import Settings
from tests.training.world import fill, ratings_of, train


def test_what_a_run_measures_is_declared_and_returned_unchanged(database: Database, settings: Settings) -> None:
    fill(database, ratings_of(60, 40))
    chosen = Hyperparameters(n_factors=4, n_epochs=10, posterior="on", n_sweeps=10)
    for _ in range(2):  # the second meets the gate
        run = train(database, settings, chosen)
        assert run.status == "succeeded", run.error
        measured = RunMetrics.model_validate(run.metrics)
        assert measured.to_json() == run.metrics
    assert measured.gate is not None
    assert measured.report is not None
    with database.read() as connection:
        version = versions.find_active(connection)
    assert version is not None
    returned = Model.of(version).model_dump(by_alias=True, exclude_unset=True)["metrics"]
    assert returned["report"] == run.metrics["report"]


def test_only_metrics_that_were_set_are_stored() -> None:
    assert RunMetrics.model_validate({}).to_json() == {}
    metrics = RunMetrics()
    metrics.n_holdout = 20
    metrics.gate = Gate(active_version=1, n_ratings=0, rmse=None, active_rmse=None)
    assert metrics.to_json() == {
        "n_holdout": 20,
        "gate": {"active_version": 1, "n_ratings": 0, "rmse": None, "active_rmse": None},
    }
