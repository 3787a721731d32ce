import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry, generate_latest

from app.db.engine import Database, open_database
from app.demo.service_process import running_service
from app.health.collector import DatabaseCollector, update_gauges
from app.metrics.instruments import CONNECTIONS, SERVED_VERSION
from app.registry.live_model import LiveModel
from app.settings import Settings
from tests.conftest import KERNELS
from tests.metrics.samples import parse, samples
from tests.registry.world import publish
from tests.training.world import enqueue, fill, train, wait_until


def shared(database: Database) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(DatabaseCollector(database))
    return parse(generate_latest(registry).decode())


def test_an_empty_database_has_no_ratings_no_runs_and_no_model(client: httpx.Client) -> None:
    found = samples(client)
    assert found["palate_database_up"] == 1
    assert found["palate_ratings"] == 0
    assert found['palate_training_runs{kind="train",status="queued"}'] == 0
    assert "palate_model_version" not in found


def test_what_the_trainer_did_is_told_by_whoever_is_asked(database: Database, settings: Settings) -> None:
    fill(database)
    run = train(database, settings)
    enqueue(database)
    found = shared(database)
    assert found["palate_model_version"] == run.version
    assert found["palate_model_trained_through"] == run.trained_through == found["palate_ratings_revision"]
    assert 0 <= found["palate_model_age_seconds"] < 600
    assert found["palate_training_ratings"] == found["palate_ratings"] == run.n_ratings
    assert found["palate_model_holdout_rmse"] == run.metrics["holdout_rmse"]
    for phase, seconds in run.metrics["seconds"].items():
        assert found[f'palate_training_phase_seconds{{phase="{phase}"}}'] == seconds
    assert found['palate_training_runs{kind="train",status="queued"}'] == 1
    assert found['palate_training_runs{kind="train",status="succeeded"}'] == 1


def test_while_the_database_is_away_that_is_all_that_is_said_of_it() -> None:
    away = open_database(Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing"))
    assert shared(away) == {"palate_database_up": 0}


def test_a_process_notes_its_connections_and_the_version_that_it_serves(database: Database, settings: Settings) -> None:
    version = publish(database, settings.versions_dir)
    live = LiveModel(database, settings)
    live.refresh()
    with database.read(), database.read():
        update_gauges(database, live)
    assert CONNECTIONS.labels("in_use")._value.get() == 2
    assert SERVED_VERSION._value.get() == version


def test_any_worker_tells_of_all_and_what_a_killed_one_counted_is_not_lost(tmp_path: Path) -> None:
    environment = {"PALATE_KERNEL_CACHE_DIR": str(KERNELS), "PALATE_TRAINER": "external"}
    created = 'palate_ratings_written_total{outcome="created"}'
    with running_service(tmp_path, workers=2, environment=environment) as service:

        def told() -> dict[str, float]:
            with httpx.Client(base_url=service.url) as client:  # a connection of its own: any worker may answer
                return samples(client)

        wait_until(lambda: len(served_by(told())) == 2)
        for number in range(20):
            rating = {"user_id": "ann", "item_id": f"item-{number}", "value": 3}
            httpx.post(f"{service.url}/v1/ratings", json=rating).raise_for_status()
        assert {told()[created] for _ in range(10)} == {20}
        assert len(served_by(told())) == 2, "the process that forked the workers is none of them"
        os.kill(service.workers[0], signal.SIGKILL)
        wait_until(lambda: told_by_a_living_worker(told) == 20)


def served_by(found: dict[str, float]) -> list[str]:
    return [name for name in found if name.startswith("palate_served_model_version{")]


def told_by_a_living_worker(told: Callable[[], dict[str, float]]) -> float | None:
    try:
        return told()['palate_ratings_written_total{outcome="created"}']
    except httpx.TransportError:  # the connection had been given to the one that was killed
        return None
