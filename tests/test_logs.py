import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request

from app.api_keys.keyring import ActiveKey
from app.db.engine import open_database
from app.logs import JsonLines, TextLines, current_request
from app.metrics.observer import Observer
from app.settings import Settings
from tests.asgi import serving
from tests.registry.world import publish

SERVICE = """
import sys, anyio
from app.main import create_app
from app.settings import Settings
from tests.asgi import serving

async def serve():
    app = create_app(Settings.model_validate_json(sys.argv[1]))
    async with app.router.lifespan_context(app):
        pass

anyio.run(serve)
"""


def _log_of_a_service(settings: Settings) -> str:
    arguments = [sys.executable, "-c", SERVICE, settings.model_dump_json()]
    return subprocess.run(arguments, stderr=subprocess.PIPE, check=True, text=True).stderr


def test_a_line_has_its_time_level_process_and_logger(sqlite_settings: Settings) -> None:
    database = open_database(sqlite_settings)
    version = publish(database, sqlite_settings.versions_dir)
    database.dispose()
    said = _log_of_a_service(sqlite_settings)
    message = rf"now serving model version {version}"
    line = rf"^\d{{4}}-\d\d-\d\d [\d:,]+ INFO service app\.registry\.live_model: {message}$"
    assert re.search(line, said, re.MULTILINE)


def test_the_minimum_level_comes_from_the_settings(sqlite_settings: Settings) -> None:
    database = open_database(sqlite_settings)
    publish(database, sqlite_settings.versions_dir)
    database.dispose()
    assert _log_of_a_service(sqlite_settings.model_copy(update={"log_level": "warning"})) == ""


KEY = ActiveKey(1, "shop", "plt_0123", "", frozenset({"read"}), float("inf"))
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged meanwhile, as JSON lines."""
    written: list[str] = []
    form = JsonLines("service")
    handler = logging.Handler()
    handler.emit = lambda record: written.append(form.format(record))  # type: ignore[method-assign]
    log = logging.getLogger("app")
    before = log.level
    log.addHandler(handler)
    log.setLevel("INFO")
    yield written
    log.removeHandler(handler)
    log.setLevel(before)


def answering(*, is_logging: bool) -> FastAPI:
    """A service with a route that says something, asked with a key."""
    app = FastAPI()
    app.add_middleware(Observer, is_logging=is_logging)

    @app.get("/v1/users/{user_id}/ratings")
    def get_ratings(user_id: str, request: Request) -> None:
        request.scope["api_key"] = KEY  # as the guard does
        logging.getLogger("app.ratings").info("looking up")

    return app


def test_a_request_leaves_a_line_with_its_route_status_duration_and_key(lines: list[str]) -> None:
    with serving(answering(is_logging=True)) as client:
        client.get("/v1/users/ann/ratings", headers={"X-Request-ID": "checkout-17"})
    told = json.loads(lines[-1])
    assert told["message"].startswith("GET /v1/users/{user_id}/ratings 200 in ")
    assert (told["request_id"], told["route"], told["key_name"]) == (
        "checkout-17",
        "/v1/users/{user_id}/ratings",
        "shop",
    )
    assert (told["status"], told["level"], told["process"]) == (200, "info", "service")
    assert told["duration_ms"] > 0
    assert "ann" not in lines[-1]


def test_lines_that_are_logged_during_a_request_name_it(lines: list[str]) -> None:
    with serving(answering(is_logging=False)) as client:
        client.get("/v1/users/ann/ratings", headers={"X-Request-ID": "checkout-17"})
    [line] = lines
    told = json.loads(line)
    assert (told["message"], told["request_id"], told["key_name"]) == ("looking up", "checkout-17", "shop")


@pytest.mark.parametrize(
    ("traceparent", "facts"),
    [
        (f"00-{TRACE}-{CALLER}-01", {"trace_id": TRACE, "parent_span_id": CALLER}),
        (f"cc-{TRACE}-{CALLER}-00-of-the-future", {"trace_id": TRACE, "parent_span_id": CALLER}),
        (f"ff-{TRACE}-{CALLER}-01", {}),
        (f"00-{'0' * 32}-{CALLER}-01", {}),
        (f"00-{TRACE}-{'0' * 16}-01", {}),
        (f"00-{TRACE.upper()}-{CALLER}-01", {}),
        (f"00-{TRACE}-{CALLER}", {}),
        ("nonsense", {}),
    ],
)
def test_the_trace_of_a_caller_is_in_the_lines_where_its_header_is_valid(
    lines: list[str], traceparent: str, facts: dict[str, str]
) -> None:
    with serving(answering(is_logging=True)) as client:
        client.get("/v1/users/ann/ratings", headers={"traceparent": traceparent})
    told = json.loads(lines[-1])
    assert {name: told[name] for name in ("trace_id", "parent_span_id") if name in told} == facts


def test_a_json_line_of_an_error_holds_its_traceback_in_one_line() -> None:
    try:
        raise RuntimeError("a bug")
    except RuntimeError:
        record = logging.LogRecord("app", logging.ERROR, __file__, 1, "it\nbroke", None, sys.exc_info())
    line = JsonLines("trainer").format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert (told["message"], told["process"]) == ("it\nbroke", "trainer")
    assert told["exception"].endswith("RuntimeError: a bug")


def test_a_text_line_ends_with_the_request_that_it_is_about(lines: list[str]) -> None:
    texts = []

    def note(record: logging.LogRecord) -> bool:
        texts.append(TextLines("service").format(record))
        return True

    log = logging.getLogger("app.ratings")
    log.addFilter(note)
    with serving(answering(is_logging=False)) as client:
        client.get("/v1/users/ann/ratings", headers={"X-Request-ID": "checkout-17"})
    log.removeFilter(note)
    assert texts[0].endswith("app.ratings: looking up [checkout-17]")
    assert current_request.get() is None


def test_a_service_that_logs_json_logs_nothing_else(sqlite_settings: Settings) -> None:
    database = open_database(sqlite_settings)
    version = publish(database, sqlite_settings.versions_dir)
    database.dispose()
    said = _log_of_a_service(sqlite_settings.model_copy(update={"log_format": "json"}))
    told = [json.loads(line) for line in said.splitlines()]
    assert [line["message"] for line in told] == [f"now serving model version {version}"]
