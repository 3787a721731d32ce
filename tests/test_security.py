"""What docs/security.md promises and no other test covers."""

import ast
import re
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.db.engine import Database
from app.main import create_app
from app.settings import Settings
from tests.asgi import serving
from tests.conftest import REPOSITORY

CLIENTS = {"httpx", "requests", "aiohttp", "urllib.request", "http.client"}


def test_every_test_that_the_security_page_names_exists() -> None:
    named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", (REPOSITORY / "docs" / "security.md").read_text())
    assert len(named) > 20
    for file, name in named:
        assert f"def {name}(" in (REPOSITORY / file).read_text(), f"{file}::{name}"


def _imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_nothing_but_the_demo_can_ask_another_server() -> None:
    for path in (REPOSITORY / "app").rglob("*.py"):
        if path.parent.name != "demo":
            assert not CLIENTS & set(_imports(path.read_text())), path


def test_a_fault_of_the_service_tells_nothing_of_its_inside(sqlite_settings: Settings) -> None:
    app: FastAPI = create_app(sqlite_settings)

    @app.get("/v1/broken")
    def break_down() -> None:
        raise RuntimeError("the password is swordfish")

    with serving(app) as client:
        answer: httpx.Response = client.get("/v1/broken")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "swordfish" not in answer.text
    assert "Traceback" not in answer.text


def test_an_error_of_the_database_tells_nothing_of_what_it_was_given(database: Database) -> None:
    """Such errors are logged, and ids of users are nobody's business there."""
    with pytest.raises(DBAPIError) as raised, database.read() as connection:
        connection.execute(text("SELECT * FROM nowhere WHERE user_id = :user"), {"user": "ann@example.org"})
    assert "nowhere" in str(raised.value)
    assert "ann@example.org" not in str(raised.value)
