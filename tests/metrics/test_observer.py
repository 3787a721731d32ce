import re
from collections.abc import Iterator

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.asgi import serving
from tests.metrics.samples import growth, samples

LISTS = 'method="GET",route="/v1/users/{user_id}/recommendations"'


@pytest.fixture
def failing_client(sqlite_settings: Settings) -> Iterator[httpx.Client]:
    """A service with a route that has a bug."""
    app = create_app(sqlite_settings)

    @app.get("/bug")
    def bug() -> None:
        raise RuntimeError("a bug")

    with serving(app) as client:
        yield client


def test_requests_are_counted_and_timed_by_the_template_of_their_route(sqlite_client: httpx.Client) -> None:
    before = samples(sqlite_client)
    for user in ("ann", "bob", "cid"):
        sqlite_client.get(f"/v1/users/{user}/recommendations")
    sqlite_client.get("/v1/users/ann/recommendations?n=0")
    after = samples(sqlite_client)
    assert growth(before, after, f'palate_http_requests_total{{{LISTS},status="200"}}') == 3
    assert growth(before, after, f'palate_http_requests_total{{{LISTS},status="422"}}') == 1
    assert growth(before, after, f"palate_http_request_duration_seconds_count{{{LISTS}}}") == 4
    assert not [name for name in after if "ann" in name]


def test_paths_and_methods_that_nobody_knows_are_one_series(sqlite_client: httpx.Client) -> None:
    before = samples(sqlite_client)
    for number in range(5):
        sqlite_client.get(f"/nothing/{number}")
        sqlite_client.request(f"METHOD{number}", "/nothing")
    after = samples(sqlite_client)
    assert growth(before, after, 'palate_http_requests_total{method="GET",route="unknown",status="404"}') == 5
    assert growth(before, after, 'palate_http_requests_total{method="other",route="unknown",status="404"}') == 5


def test_a_bug_is_counted_as_500_and_its_answer_has_the_id_of_the_request(failing_client: httpx.Client) -> None:
    before = samples(failing_client)
    answer = failing_client.get("/bug", headers={"X-Request-ID": "from-outside"})
    assert answer.status_code == 500
    assert answer.headers["X-Request-ID"] == "from-outside"
    name = 'palate_http_requests_total{method="GET",route="/bug",status="500"}'
    assert growth(before, samples(failing_client), name) == 1


def test_every_answer_has_an_id_of_its_own_unless_the_caller_gave_one(sqlite_client: httpx.Client) -> None:
    ids = {sqlite_client.get("/healthz").headers["X-Request-ID"] for _ in range(3)}
    assert len(ids) == 3
    given = sqlite_client.get("/healthz", headers={"X-Request-ID": "checkout-17"})
    assert given.headers["X-Request-ID"] == "checkout-17"


@pytest.mark.parametrize("given", ["a b", "x" * 129, 'a"b', ""])
def test_an_id_that_could_spoil_a_log_is_replaced(sqlite_client: httpx.Client, given: str) -> None:
    answer = sqlite_client.get("/healthz", headers={"X-Request-ID": given})
    assert re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", answer.headers["X-Request-ID"])


def test_ratings_are_counted_by_what_became_of_them(sqlite_client: httpx.Client) -> None:
    def rating(item: str, value: float) -> dict[str, object]:
        return {"user_id": "ann", "item_id": item, "value": value}

    before = samples(sqlite_client)
    sqlite_client.post("/v1/ratings", json=rating("dune", 4))
    sqlite_client.post("/v1/ratings/batch", json={"ratings": [rating("dune", 5), rating("alien", 3)]})
    sqlite_client.post("/v1/ratings", json=rating("dune", 5))
    sqlite_client.post("/v1/ratings/import", content=b"user,item,rating\nann,brazil,2\nbob,brazil,1\n")
    sqlite_client.delete("/v1/users/ann/ratings/dune")
    sqlite_client.delete("/v1/users/ann")
    after = samples(sqlite_client)
    counted = {
        outcome: growth(before, after, f'palate_ratings_written_total{{outcome="{outcome}"}}')
        for outcome in ("created", "updated", "unchanged", "removed")
    }
    assert counted == {"created": 4, "updated": 1, "unchanged": 1, "removed": 3}


def test_users_are_counted_by_the_source_of_their_answer(sqlite_client: httpx.Client) -> None:
    before = samples(sqlite_client)
    sqlite_client.get("/v1/users/ann/recommendations")
    sqlite_client.post("/v1/recommendations", json={"ratings": []})
    pairs = [{"user_id": user, "item_id": item} for user in ("ann", "bob") for item in ("dune", "alien")]
    sqlite_client.post("/v1/predictions", json={"pairs": pairs})
    after = samples(sqlite_client)
    assert growth(before, after, 'palate_users_answered_total{source="popular"}') == 2
    assert growth(before, after, 'palate_users_answered_total{source="means"}') == 2
    assert growth(before, after, "palate_top_n_seconds_count") == 2
