"""What the docs, the dashboard and the alerts name is what there is."""

import json
import re

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from app.db.engine import open_database
from app.db.tables import utc_now
from app.engine.sgd.trainer import EpochReport
from app.health.collector import DatabaseCollector
from app.metrics.multiprocess import merged_registry
from app.settings import Settings
from app.training import queue
from app.training.queue import Epoch
from tests.conftest import REPOSITORY
from tests.training.world import enqueue, fill, train

EXAMPLES = REPOSITORY / "examples" / "observability"
NAME = re.compile(r"palate_\w+")


@pytest.fixture
def told(settings: Settings) -> dict[str, Metric]:
    """Everything that a service can tell, with a version published and a run under way."""
    database = open_database(settings)
    fill(database)
    train(database, settings)
    enqueue(database)
    with database.write() as connection:
        held = queue.claim(connection, "me", settings.training.lease, database.now(connection))
        assert held is not None
        queue.record_epochs(connection, held, [Epoch("fit", EpochReport(1, 8, 0.03, 1.0, 0.9, 1e6), utc_now())])
    registry = CollectorRegistry()
    registry.register(DatabaseCollector(database))
    text = (generate_latest(merged_registry()) + generate_latest(registry)).decode()
    database.dispose()
    return {name_of(family): family for family in text_string_to_metric_families(text) if "palate" in family.name}


def name_of(family: Metric) -> str:
    """As one asks for it: what is counted ends in _total."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def test_every_figure_is_documented_with_its_kind_and_labels_and_nothing_else_is(told: dict[str, Metric]) -> None:
    rows = re.findall(r"^\| `(palate_\w+)` \| (\w+) \|([\w, ]*)\|", docs(), re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in rows}
    assert sorted(documented) == sorted(told)
    for name, family in told.items():
        kind, labels = documented[name]
        assert kind == family.type, name
        used = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert used <= labels, name


def docs() -> str:
    return (REPOSITORY / "docs" / "observability.md").read_text()


@pytest.mark.parametrize("file", ["grafana-dashboard.json", "alerts.yml"])
def test_what_is_asked_for_exists(told: dict[str, Metric], file: str) -> None:
    asked = set(NAME.findall((EXAMPLES / file).read_text()))
    there = {f"{name}{end}" for name in told for end in ("", "_bucket", "_count", "_sum")}
    assert asked
    assert asked <= there


def test_the_dashboard_shows_every_figure_but_those_that_say_little_over_time(told: dict[str, Metric]) -> None:
    asked = {name.removesuffix("_bucket") for name in NAME.findall((EXAMPLES / "grafana-dashboard.json").read_text())}
    assert set(told) - asked == {
        "palate_training_epoch",
        "palate_training_finished_timestamp_seconds",
        "palate_training_ratings",
    }


def test_the_dashboard_gives_every_panel_a_place_of_its_own() -> None:
    board = json.loads((EXAMPLES / "grafana-dashboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_stack_mounts_files_that_exist() -> None:
    compose = (REPOSITORY / "docker-compose.yml").read_text()
    mounted = re.findall(r"- \./(\S+?):", compose)
    assert len(mounted) == 5
    assert all((REPOSITORY / file).is_file() for file in mounted), mounted
