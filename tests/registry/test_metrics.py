"""Everything that a run measures is declared to clients, and told as it is kept."""

from typing import Any

from app.db.engine import Database
from app.engine.hyperparameters import Hyperparameters
from app.registry import versions
from app.registry.metrics import Metrics
from app.registry.schemas import Model
from app.settings import Settings
from tests.training.world import fill, ratings_of, train


def _undeclared(model: Any) -> list[str]:
    found = list(model.model_extra or {})
    for name in type(model).model_fields:
        value = getattr(model, name)
        for part in value if isinstance(value, list) else [value]:
            found += _undeclared(part) if hasattr(part, "model_extra") else []
    return found


def test_what_a_run_measures_is_declared_and_told_unchanged(database: Database, settings: Settings) -> None:
    fill(database, ratings_of(60, 40))
    chosen = Hyperparameters(n_factors=4, n_epochs=10, posterior="on", n_sweeps=10)
    for _ in range(2):  # the second meets the gate
        run = train(database, settings, chosen)
        assert run.status == "succeeded", run.error
        measured = Metrics.model_validate(run.metrics)
        assert _undeclared(measured) == []
        assert measured.model_dump(by_alias=True, exclude_unset=True) == run.metrics
    assert measured.gate is not None
    assert measured.report is not None
    with database.read() as connection:
        version = versions.find_active(connection)
    assert version is not None
    told = Model.of(version).model_dump(by_alias=True, exclude_unset=True)["metrics"]
    assert told["report"] == run.metrics["report"]


def test_a_run_that_has_measured_nothing_has_no_metrics() -> None:
    assert Metrics.model_validate({}).model_dump(exclude_unset=True) == {}
