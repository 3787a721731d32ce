import httpx
import pytest

from app.db.engine import Database
from app.settings import Settings
from tests.registry.world import publish_many


@pytest.fixture
def published(database: Database, settings: Settings) -> list[int]:
    return publish_many(database, settings.versions_dir, [1.0, 2.0, 3.0])


def test_without_a_version_the_active_one_is_a_problem(client: httpx.Client) -> None:
    answer = client.get("/v1/models/active")
    assert answer.status_code == 404
    assert "no active model version yet" in answer.json()["detail"]
    assert client.get("/v1/models").json() == {"models": [], "next_cursor": None}


def test_history_comes_in_pages_newest_first(published: list[int], client: httpx.Client) -> None:
    page = client.get("/v1/models", params={"limit": 2}).json()
    assert [model["version"] for model in page["models"]] == published[:0:-1]
    assert [model["is_active"] for model in page["models"]] == [True, False]
    rest = client.get("/v1/models", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert [model["version"] for model in rest["models"]] == [published[0]]
    assert rest["next_cursor"] is None


def test_a_version_tells_what_it_is(published: list[int], client: httpx.Client) -> None:
    model = client.get(f"/v1/models/{published[0]}").json()
    assert model["trained_through"] == 7
    assert model["n_items"] == 3
    assert model["metrics"] == {"holdout_rmse": 0.9}
    assert [point["epoch"] for point in model["learning_curve"]] == [1]
    assert model["size_bytes"] > 0
    assert client.get("/v1/models/active").json()["version"] == published[2]


def test_activating_an_older_version_rolls_back(published: list[int], client: httpx.Client) -> None:
    answer = client.post(f"/v1/models/{published[0]}/activate")
    assert answer.status_code == 200
    assert answer.json()["is_active"] is True
    assert client.get("/v1/models/active").json()["version"] == published[0]


def test_a_damaged_version_is_a_conflict_that_names_the_file(
    published: list[int], settings: Settings, client: httpx.Client
) -> None:
    (settings.versions_dir / "version-1.0" / "item_bias.npy").unlink()
    answer = client.post(f"/v1/models/{published[0]}/activate")
    assert answer.status_code == 409
    assert answer.json()["detail"] == "model version folder version-1.0: item_bias.npy is missing"
    assert client.get("/v1/models/active").json()["version"] == published[2]


def test_deleting_answers_no_content_and_refuses_the_active_one(published: list[int], client: httpx.Client) -> None:
    assert client.delete(f"/v1/models/{published[0]}").status_code == 204
    assert client.get(f"/v1/models/{published[0]}").status_code == 404
    assert client.delete(f"/v1/models/{published[2]}").status_code == 409


@pytest.mark.parametrize("path", ["/v1/models/0", "/v1/models/x", "/v1/models?limit=0", "/v1/models?cursor=x"])
def test_bad_numbers_are_told_by_field(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 1


def test_the_document_says_how_long_a_rollback_lasts(sqlite_client: httpx.Client) -> None:
    paths = sqlite_client.get("/openapi.json").json()["paths"]
    told = paths["/v1/models/{version}/activate"]["post"]["description"]
    assert "until a later run publishes" in told.replace("\n", " ")
    assert "PALATE_RETRAIN_ENABLED=false" in told
