"""A request that is repeated, because its response was lost, is carried out once."""

import threading
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import func, select

from app.db.engine import Database
from app.http.idempotency import IdempotentResponse
from app.main import create_app
from app.settings import Settings
from app.training.models import TrainingRun
from tests.asgi import serving

KEY = {"Idempotency-Key": '"8e03978e-40d5-43e8-bc93-6894a57f9324"'}


def n_runs(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(TrainingRun)).scalar_one()


@pytest.mark.parametrize(("path", "body"), [("/v1/training-runs", {"seed": 7}), ("/v1/searches", {"n_trials": 3})])
def test_the_same_request_is_carried_out_once_and_answered_the_same(
    client: httpx.Client, database: Database, path: str, body: dict[str, int]
) -> None:
    first, again = (client.post(path, json=body, headers=KEY) for _ in range(2))
    assert first.status_code == again.status_code == 202
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert n_runs(database) == 1


def test_the_response_stays_the_first_one_although_the_run_changes(client: httpx.Client) -> None:
    first = client.post("/v1/training-runs", headers=KEY).json()
    client.post(f"/v1/training-runs/{first['id']}/cancel")
    assert client.post("/v1/training-runs", headers=KEY).json() == first
    assert client.get(f"/v1/training-runs/{first['id']}").json()["status"] == "cancelled"


def test_another_body_with_the_same_key_is_a_conflict(client: httpx.Client, database: Database) -> None:
    client.post("/v1/training-runs", json={"seed": 7}, headers=KEY)
    refused = client.post("/v1/training-runs", json={"seed": 8}, headers=KEY)
    assert refused.status_code == 409
    assert "another body" in refused.json()["detail"]
    assert n_runs(database) == 1


def test_other_keys_other_routes_and_requests_without_a_key_are_requests_of_their_own(
    client: httpx.Client, database: Database
) -> None:
    for headers in (KEY, {"Idempotency-Key": "other"}, {}, {}):
        assert client.post("/v1/training-runs", json={}, headers=headers).status_code == 202
    assert client.post("/v1/searches", json={}, headers=KEY).status_code == 202
    assert n_runs(database) == 5


def test_a_refused_request_can_be_corrected_and_sent_with_the_same_key(client: httpx.Client) -> None:
    wrong = {"space": {"n_factors": {"kind": "nonsense"}}}
    assert client.post("/v1/searches", json=wrong, headers=KEY).status_code == 422
    assert client.post("/v1/searches", json={"n_trials": 3}, headers=KEY).status_code == 202


def test_one_of_many_concurrent_repetitions_is_carried_out_and_all_get_its_response(
    settings: Settings, database: Database
) -> None:
    answers: list[httpx.Response] = []
    with serving(create_app(settings)) as client:
        asking = [
            threading.Thread(target=lambda: answers.append(client.post("/v1/training-runs", json={}, headers=KEY)))
            for _ in range(6)
        ]
        for each in asking:
            each.start()
        for each in asking:
            each.join()
    assert [answer.status_code for answer in answers] == [202] * 6
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert n_runs(database) == 1


def test_a_key_expires_after_a_day(client: httpx.Client, database: Database) -> None:
    first = client.post("/v1/training-runs", headers=KEY).json()
    with database.write() as connection:
        [expires_at] = connection.execute(select(IdempotentResponse.expires_at)).scalars()
        assert timedelta(hours=23) < expires_at - database.now(connection) <= timedelta(days=1)
        connection.execute(IdempotentResponse.__table__.update().values(expires_at=database.now(connection)))  # type: ignore[attr-defined]
    assert client.post("/v1/training-runs", headers=KEY).json()["id"] != first["id"]


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_an_invalid_key_is_bad_input(sqlite_client: httpx.Client, key: str) -> None:
    refused = sqlite_client.post("/v1/training-runs", headers={"Idempotency-Key": key})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "idempotency-key"
