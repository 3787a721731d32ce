"""How many requests are answered in a while."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import anyio
import httpx
import pytest

from app.api_keys import keys
from app.api_keys.rate import RateLimit
from app.db.tables import utc_now
from app.main import create_app
from app.settings import Limits, Settings
from tests.asgi import serving
from tests.conftest import skip_or_fail


def limited(settings: Settings, rate: str) -> Settings:
    return settings.model_copy(update={"limits": Limits(rate=rate)})


def statuses(client: httpx.Client, n: int, **request: dict[str, str]) -> list[int]:
    return [client.get("/v1/status", **request).status_code for _ in range(n)]  # type: ignore[arg-type]


def test_a_client_over_the_limit_learns_how_long_to_wait(sqlite_settings: Settings) -> None:
    with serving(create_app(limited(sqlite_settings, "3/hour"))) as client:
        assert statuses(client, 5) == [200, 200, 200, 429, 429]
        refused = client.get("/v1/status")
        assert refused.headers["content-type"] == "application/problem+json"
        assert 1 <= int(refused.headers["retry-after"]) <= 3600
        assert "3 per 1 hour" in refused.json()["detail"]
        assert client.get("/healthz").status_code == 200


def test_after_that_time_the_next_request_is_answered(sqlite_settings: Settings) -> None:
    with serving(create_app(limited(sqlite_settings, "2/second"))) as client:
        answers = [client.get("/v1/status") for _ in range(6)]
        refused = next(answer for answer in answers if answer.status_code == 429)
        time.sleep(2 * int(refused.headers["retry-after"]))
        assert client.get("/v1/status").status_code == 200


def test_each_key_counts_for_itself_and_bad_keys_count_for_their_client(sqlite_settings: Settings) -> None:
    app = create_app(limited(sqlite_settings, "2/hour"))
    with serving(app) as client:
        with app.state.database.write() as connection:
            tokens = [keys.create(connection, name, ["read"], utc_now()).token for name in ("one", "two")]
        app.state.keyring.refresh()
        for token in tokens:
            assert statuses(client, 3, headers={"Authorization": f"Bearer {token}"}) == [200, 200, 429]
        assert statuses(client, 3) == [401, 401, 429]


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A Redis server of this test's own."""
    program = shutil.which("redis-server")
    if program is None:
        skip_or_fail("no redis-server on the search path")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([program, "--port", str(port), "--save", "", "--bind", "127.0.0.1"], stdout=-3)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"redis://127.0.0.1:{port}"
    server.terminate()
    server.wait()


def test_processes_that_share_a_redis_server_count_together(sqlite_settings: Settings, redis_url: str) -> None:
    settings = sqlite_settings.model_copy(update={"limits": Limits(rate="3/hour", rate_store=redis_url)})
    with serving(create_app(settings)) as one, serving(create_app(settings)) as other:
        assert statuses(one, 2) + statuses(other, 2) + statuses(one, 1) == [200, 200, 200, 429, 429]


def test_without_its_store_there_is_no_limit() -> None:
    async def ask() -> list[int | None]:
        rate = RateLimit("1/hour", "redis://127.0.0.1:1")
        return [await rate.wait_for("client") for _ in range(3)]

    assert anyio.run(ask) == [None, None, None]
