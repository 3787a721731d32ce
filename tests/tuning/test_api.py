import threading
from typing import Any

import httpx
import pytest

from app.db.engine import Database
from app.settings import Settings
from app.training import queue
from app.tuning.study import execute
from tests.training.world import claim, fill
from tests.tuning.world import GRID, search_of

QUICK = {"n_factors": 4, "n_epochs": 6}


def post(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post("/v1/searches", json=body)


def work(database: Database, settings: Settings) -> None:
    execute(database, settings, claim(database, settings), is_stopping=lambda: False)


def test_a_search_is_accepted_watched_and_found_done(
    client: httpx.Client, database: Database, settings: Settings
) -> None:
    fill(database)
    accepted = post(client, space=GRID, strategy="grid", n_trials=9, pruning="none", hyperparameters=QUICK)
    assert accepted.status_code == 202
    started = accepted.json()
    assert (started["status"], started["n_trials"], started["n_done"], started["best"]) == ("queued", 4, 0, None)
    assert started["hyperparameters"]["n_epochs"] == 6
    work(database, settings)
    found = client.get(accepted.headers["Location"]).json()
    assert (found["status"], found["n_done"]) == ("succeeded", 4)
    values = [trial["value"] for trial in found["trials"]]
    assert found["best"]["value"] == min(values)
    assert found["best_hyperparameters"]["n_factors"] == found["best"]["parameters"]["n_factors"]
    assert all(trial["seconds"] > 0 and len(trial["curve"]) == 10 for trial in found["trials"])
    run = client.get(f"/v1/training-runs/{found['id']}").json()
    assert (run["kind"], run["status"]) == ("search", "succeeded")


def test_losses_are_searched_and_the_best_one_is_returned(
    client: httpx.Client, database: Database, settings: Settings
) -> None:
    fill(database)
    space = {"loss": {"choices": ["huber", "log_cosh"]}, "loss.delta": {"choices": [0.5]}}
    loss = {"error": "abs(r - r_hat)", "penalty": "elastic_net"}
    started = post(client, space=space, strategy="grid", hyperparameters=QUICK, loss=loss).json()
    assert started["loss"]["error"] == "abs(r - r_hat)"
    assert started["best_loss"] is None
    work(database, settings)
    found = client.get(f"/v1/searches/{started['id']}").json()
    assert [trial["parameters"]["loss"] for trial in found["trials"]] == ["huber", "log_cosh"]
    assert found["best_loss"]["name"] == found["best"]["parameters"]["loss"]
    assert found["best_loss"]["parameters"]["l1_share"] == 0.5


def test_without_a_body_the_default_space_is_searched(client: httpx.Client) -> None:
    started = client.post("/v1/searches").json()
    assert set(started["space"]) == {"n_factors", "learning_rate", "regularization", "reg_bias"}
    assert (started["strategy"], started["n_trials"], started["n_folds"], started["publish"]) == ("tpe", 40, 3, False)


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"space": {"rank": {"choices": [1]}}}, "space.rank", "is not a hyperparameter; they are"),
        ({"space": {"n_factors": {"low": 0, "high": 9}}}, "space.n_factors", "a whole number from 1 to 1024, not 0"),
        ({"space": {"n_factors": {"low": 1, "height": 9}}}, "space.n_factors.height", "Extra inputs"),
        ({"space": {"n_factors": {"choices": ["many"]}}}, "space.n_factors", "a whole number from 1 to 1024"),
        ({"space": {"learning_rate": {"low": 0.1, "high": 0.2}}, "strategy": "grid"}, "space.learning_rate", "a step"),
        ({"space": {}}, "space", "at least 1 item"),
        ({"strategy": "annealing"}, "strategy", "'grid', 'random' or 'tpe'"),
        ({"n_trials": 0}, "n_trials", "greater than or equal to 1"),
        ({"hyperparameters": {"n_factors": 0}}, "hyperparameters.n_factors", "greater than or equal to 1"),
        ({"hyperparameters": {"loss": {"error": "huber"}}}, "hyperparameters.loss", "Extra inputs"),
        ({"loss": {"error": "r_hat.__class__"}}, "loss.error", "an attribute is not allowed at character 1"),
        ({"loss": {"error": "huber", "parameters": {"width": 1}}}, "loss.parameters", "width is not used"),
        ({"space": {"loss": {"choices": ["huber", "hubert"]}}}, "space.loss", "the loss hubert is not known"),
        ({"space": {"loss.delta": {"low": 1, "high": 2}}}, "space.loss.delta", "they name none"),
        (
            {"n_folds": 1, "hyperparameters": {"holdout_fraction": 0}},
            "hyperparameters.holdout_fraction",
            "must be above 0",
        ),
    ],
)
def test_a_bad_search_is_refused_with_the_field_and_what_is_allowed(
    client: httpx.Client, body: dict[str, Any], field: str, message: str
) -> None:
    refused = post(client, **body)
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    [error] = refused.json()["errors"]
    assert error["field"] == field
    assert message in error["message"]
    assert client.get("/v1/searches").json()["searches"] == []


def test_searches_are_listed_newest_first_page_by_page(client: httpx.Client) -> None:
    ids = [post(client, seed=seed).json()["id"] for seed in range(3)]
    first = client.get("/v1/searches", params={"limit": 2}).json()
    assert [each["id"] for each in first["searches"]] == ids[:0:-1]
    rest = client.get("/v1/searches", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [each["id"] for each in rest["searches"]] == ids[:1]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize("path", ["/v1/searches/7", "/v1/searches/7/plot"])
def test_a_search_that_does_not_exist_is_not_found(client: httpx.Client, path: str) -> None:
    assert client.get(path).json()["detail"] == "search 7 does not exist"


def test_a_training_run_is_no_search(client: httpx.Client) -> None:
    run_id = client.post("/v1/training-runs").json()["id"]
    assert client.get(f"/v1/searches/{run_id}").status_code == 404
    assert client.post(f"/v1/searches/{run_id}/cancel").status_code == 404


def test_a_queued_search_is_cancelled_at_once_and_only_once(client: httpx.Client) -> None:
    search_id = post(client).json()["id"]
    assert client.post(f"/v1/searches/{search_id}/cancel").json()["status"] == "cancelled"
    again = client.post(f"/v1/searches/{search_id}/cancel")
    assert again.status_code == 409
    assert "already ended: cancelled" in again.json()["detail"]


def test_the_plot_is_an_svg_image(client: httpx.Client, database: Database, settings: Settings) -> None:
    fill(database)
    search_id = post(client, space=GRID, strategy="grid", hyperparameters=QUICK).json()["id"]
    work(database, settings)
    answer = client.get(f"/v1/searches/{search_id}/plot")
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert answer.text.startswith("<svg")
    assert answer.text.count("<circle") == 4 * (2 + len(GRID))


def test_trainings_come_before_searches_that_were_requested_earlier(
    client: httpx.Client, database: Database, settings: Settings
) -> None:
    search_id = post(client).json()["id"]
    run_id = client.post("/v1/training-runs").json()["id"]
    held = claim(database, settings)
    assert held.run_id == run_id
    with database.write() as connection:
        queue.finish(connection, held, "failed", database.now(connection))
    assert claim(database, settings).run_id == search_id


def test_a_running_search_is_cancelled_through_the_api(
    client: httpx.Client, database: Database, settings: Settings
) -> None:
    fill(database)
    endless = {"n_epochs": {"choices": [10_000]}, "patience": {"choices": [10_000]}}
    search_id = post(client, space=endless, strategy="grid").json()["id"]
    working = threading.Thread(target=work, args=(database, settings))
    working.start()
    while search_of(database, search_id).status != "running":
        pass
    client.post(f"/v1/searches/{search_id}/cancel")
    working.join(30)
    assert client.get(f"/v1/searches/{search_id}").json()["status"] == "cancelled"
