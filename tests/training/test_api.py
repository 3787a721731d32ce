import dataclasses
import json
import threading

import httpx
import pytest
from pydantic import ValidationError

from app.db.engine import Database
from app.db.tables import utc_now
from app.engine.hyperparameters import Hyperparameters
from app.engine.sgd.trainer import EpochReport
from app.settings import Settings
from app.training import queue
from app.training.models import Phase
from app.training.queue import Epoch
from app.training.run import execute
from app.training.schemas import HyperparametersIn
from tests.training.world import claim, enqueue, epochs_of, fill, run_of, train


def test_a_run_is_queued_and_its_place_is_told(client: httpx.Client) -> None:
    answer = client.post("/v1/training-runs", json={"n_factors": 3, "seed": 9})
    assert answer.status_code == 202
    run = answer.json()
    assert (run["status"], run["requested_by"], run["progress"]) == ("queued", "api", 0.0)
    assert run["hyperparameters"] == Hyperparameters(n_factors=3, seed=9).to_dict()
    assert answer.headers["Location"] == f"/v1/training-runs/{run['id']}"
    assert client.get(answer.headers["Location"]).json() == {**run, "epochs": []}


@pytest.mark.parametrize("body", [{"json": {}}, {}])
def test_without_hyperparameters_the_defaults_are_used(client: httpx.Client, body: dict[str, object]) -> None:
    run = client.post("/v1/training-runs", **body).json()
    assert run["hyperparameters"] == Hyperparameters().to_dict()


def test_the_defaults_of_the_service_lie_under_what_is_given(sqlite_settings: Settings) -> None:
    from app.main import create_app
    from tests.asgi import serving

    settings = sqlite_settings.model_copy(update={"hyperparameters": {"n_factors": 5, "n_epochs": 7}})
    with serving(create_app(settings)) as client:
        run = client.post("/v1/training-runs", json={"n_epochs": 9, "seed": None}).json()
    assert run["hyperparameters"] == Hyperparameters(n_factors=5, n_epochs=9).to_dict()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"n_factors": 0}, "n_factors"),
        ({"n_factors": 2.5}, "n_factors"),
        ({"n_factors": "8"}, "n_factors"),
        ({"n_factors": True}, "n_factors"),
        ({"learning_rate": 2}, "learning_rate"),
        ({"schedule": "cosine"}, "schedule"),
        ({"factors": 8}, "factors"),
    ],
)
def test_a_bad_hyperparameter_is_told_by_name(client: httpx.Client, body: dict[str, object], field: str) -> None:
    answer = client.post("/v1/training-runs", json=body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert client.get("/v1/training-runs").json()["runs"] == []


def test_the_request_has_the_fields_and_ranges_of_the_engine() -> None:
    fields = {field.name: field for field in dataclasses.fields(Hyperparameters)}
    assert HyperparametersIn.model_fields.keys() == fields.keys()
    for name, field in fields.items():
        for end, outside in (("low", -1), ("high", 1)):
            if end not in field.metadata:
                continue
            limit = field.metadata[end]
            assert HyperparametersIn(**{name: limit}).over({}) == Hyperparameters(**{name: limit})
            with pytest.raises(ValidationError):
                HyperparametersIn(**{name: limit + outside})


def test_runs_come_in_pages_newest_first(database: Database, client: httpx.Client) -> None:
    numbers = [enqueue(database).id for _ in range(3)]
    page = client.get("/v1/training-runs", params={"limit": 2}).json()
    assert [run["id"] for run in page["runs"]] == numbers[:0:-1]
    rest = client.get("/v1/training-runs", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert [run["id"] for run in rest["runs"]] == numbers[:1]
    assert rest["next_cursor"] is None


def test_the_list_says_how_far_a_run_is_and_reads_two_of_its_epochs_at_most(
    database: Database, settings: Settings, client: httpx.Client
) -> None:
    enqueue(database)
    held = claim(database, settings)
    phases: list[tuple[Phase, int]] = [("fit", 40), ("final", 10)]
    reports = [(phase, EpochReport(n, 40, 0.1, 1.0, None, 1.0)) for phase, last in phases for n in range(1, last + 1)]
    with database.write() as connection:
        queue.record_epochs(connection, held, [Epoch(phase, report, utc_now()) for phase, report in reports])
        assert [(row.phase, row.epoch) for row in queue.last_epochs_of(connection, held.run_id)] == phases
    [run] = client.get("/v1/training-runs").json()["runs"]
    assert run["progress"] == client.get(f"/v1/training-runs/{run['id']}").json()["progress"] == 0.625


def test_a_finished_run_tells_everything(database: Database, settings: Settings, client: httpx.Client) -> None:
    fill(database)
    run = train(database, settings)
    told = client.get(f"/v1/training-runs/{run.id}").json()
    assert (told["status"], told["progress"], told["version"]) == ("succeeded", 1.0, run.version)
    assert told["metrics"]["holdout_rmse"] > 0
    assert told["epochs"][0]["epoch"] == 1
    assert client.get(f"/v1/models/{run.version}").json()["run_id"] == run.id


def test_a_run_can_be_cancelled_once(database: Database, client: httpx.Client) -> None:
    run = enqueue(database)
    assert client.post(f"/v1/training-runs/{run.id}/cancel").json()["status"] == "cancelled"
    again = client.post(f"/v1/training-runs/{run.id}/cancel")
    assert again.status_code == 409
    assert again.json()["detail"] == f"training run {run.id} has already ended: cancelled"


@pytest.mark.parametrize("path", ["", "/cancel", "/events"])
def test_a_run_that_does_not_exist_is_not_found(client: httpx.Client, path: str) -> None:
    method = "POST" if path == "/cancel" else "GET"
    answer = client.request(method, f"/v1/training-runs/99{path}")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "training run 99 does not exist"


def _events(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    blocks = answer.text.strip().split("\n\n")
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


def test_events_of_a_finished_run_are_its_epochs_and_its_status(
    database: Database, settings: Settings, client: httpx.Client
) -> None:
    fill(database)
    run = train(database, settings)
    epochs = client.get(f"/v1/training-runs/{run.id}").json()["epochs"]
    *of_epochs, last = _events(client.get(f"/v1/training-runs/{run.id}/events"))
    assert [json.loads(event["data"]) for event in of_epochs] == epochs
    assert [event["id"] for event in of_epochs] == [f"1.{n}" for n in range(1, len(epochs) + 1)]
    assert {event["event"] for event in of_epochs} == {"epoch"}
    assert (last["event"], json.loads(last["data"])["status"]) == ("status", "succeeded")


def test_who_comes_back_gets_what_was_missed(database: Database, settings: Settings, client: httpx.Client) -> None:
    fill(database)
    run = train(database, settings)
    path = f"/v1/training-runs/{run.id}/events"
    every = _events(client.get(path))
    assert _events(client.get(path, headers={"Last-Event-ID": "1.3"})) == every[3:]
    assert _events(client.get(path, headers={"Last-Event-ID": "0.3"})) == every  # of an attempt that counts no more
    assert _events(client.get(path, headers={"Last-Event-ID": "nonsense"})) == every
    assert _events(client.get(path, headers={"Last-Event-ID": "9" * 5000 + ".1"})) == every


def test_events_follow_a_run_to_its_end(database: Database, settings: Settings, client: httpx.Client) -> None:
    fill(database)
    run = enqueue(database)
    answers: list[httpx.Response] = []
    listener = threading.Thread(target=lambda: answers.append(client.get(f"/v1/training-runs/{run.id}/events")))
    listener.start()
    execute(database, settings, claim(database, settings), is_stopping=lambda: False)
    listener.join()
    events = _events(answers[0])
    assert sum(event["event"] == "epoch" for event in events) == len(epochs_of(database, run.id))
    assert json.loads(events[-1]["data"])["status"] == run_of(database, run.id).status == "succeeded"


def test_a_run_can_be_told_what_to_minimise(client: httpx.Client) -> None:
    told = {"error": "huber", "parameters": {"delta": 1.5}, "penalty": "elastic_net"}
    run = client.post("/v1/training-runs", json={"n_factors": 4, "loss": told}).json()
    assert run["loss"]["name"] == "huber"
    assert run["loss"]["error"] == "huber(r - r_hat, delta)"
    assert run["loss"]["parameters"] == {"delta": 1.5, "l1_share": 0.5}
    assert client.get(f"/v1/training-runs/{run['id']}").json()["loss"] == run["loss"]
    assert client.post("/v1/training-runs").json()["loss"]["name"] == "squared"


@pytest.mark.parametrize(
    ("loss", "field", "told"),
    [
        ({"error": "(r - r_hat)**2 + r.real"}, "loss.error", "an attribute is not allowed at character 18"),
        ({"error": "huber", "penalty": "abs(thta)"}, "loss.penalty", "the name thta is not known here at character 5"),
        ({"error": "huber", "parameters": {"delt": 1}}, "loss.parameters", "the parameter delt is not used"),
        ({"error": "r" * 1001}, "loss.error", "at most 1000 characters"),
        ({"error": "squared", "link": "probit"}, "loss.link", "identity"),
        ({"eror": "squared"}, "loss.eror", "not permitted"),
    ],
)
def test_a_loss_that_cannot_be_is_a_problem_with_its_position(
    client: httpx.Client, loss: dict[str, object], field: str, told: str
) -> None:
    answer = client.post("/v1/training-runs", json={"loss": loss})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert told in error["message"]
