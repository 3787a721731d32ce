"""A client generated from the OpenAPI document works against a live service."""

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from app.demo.service_process import RunningService, running_service
from tests.conftest import KERNELS

USERS = [f"user-{number}" for number in range(12)]
ITEMS = [f"item-{number}" for number in range(15)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    environment = {"PALATE_KERNEL_CACHE_DIR": str(KERNELS), "PALATE_RETRAIN_ENABLED": "false"}
    with running_service(tmp_path_factory.mktemp("service"), environment=environment) as service:
        yield service


@pytest.fixture(scope="module")
def generated(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The package `palate_client`, made by openapi-python-client from the live document."""
    folder = tmp_path_factory.mktemp("client")
    document = folder / "openapi.json"
    document.write_text(json.dumps(httpx.get(f"{service.url}/openapi.json").json()))
    generator = Path(sys.executable).with_name("openapi-python-client")
    output = folder / "palate_client"
    command = [generator, "generate", "--path", document, "--output-path", output, "--meta", "none"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "warning" not in made.stdout.lower(), made.stdout
    sys.path.insert(0, str(folder))
    yield importlib.import_module("palate_client")
    sys.path.remove(str(folder))


def test_the_generated_client_rates_trains_recommends_and_gets_typed_errors(
    service: RunningService, generated: ModuleType
) -> None:
    client = generated.Client(base_url=service.url)
    models = importlib.import_module("palate_client.models")

    rated = [
        models.RatingIn(user_id=user, item_id=item, value=5.0 if (u + i) % 2 else 1.0)
        for u, user in enumerate(USERS)
        for i, item in enumerate(ITEMS)
        if (u, i) != (0, 1)
    ]
    counts = _call("ratings.add_ratings", client, body=models.RatingBatch(ratings=rated))
    assert counts.created == len(rated)

    run = _call("training.start_training", client, body=models.NewTrainingRun(n_factors=4))
    deadline = time.monotonic() + 60
    while run.status in {"queued", "running"} and time.monotonic() < deadline:
        time.sleep(0.1)
        run = _call("training.get_training_run", client, run_id=run.id)
    assert run.status == "succeeded"

    while _call("service.get_status", client).model_version is None:
        time.sleep(0.1)
    answer = _call("recommendations.recommend", client, user_id="user-0")
    assert [item.item_id for item in answer.items] == ["item-1"]  # the only one that user-0 has not rated
    assert answer.model_version == run.version

    problem = _call("ratings.add_rating", client, body=models.RatingIn(user_id="ann", item_id="dune", value=99.0))
    assert isinstance(problem, models.Problem)
    assert problem.status == 422
    assert problem.errors[0].field == "value"


def _call(operation: str, client: object, **arguments: object) -> object:
    module = importlib.import_module(f"palate_client.api.{operation}")
    answer = module.sync(client=client, **arguments)
    assert answer is not None, f"{operation} answered with an undeclared status"
    return answer
