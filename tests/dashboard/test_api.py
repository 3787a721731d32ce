"""The page and its files: right types, nothing but itself may load, and only the public API is called."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

import app.dashboard
from app.main import create_app
from app.settings import Settings

STATIC = Path(app.dashboard.__file__).parent / "static"
FILES = sorted(path.name for path in STATIC.iterdir())
MODULES = [name for name in FILES if name.endswith(".js")]


class Page:
    """GET against the app, without its lifespan: the page needs no database."""

    def __init__(self, portal: BlockingPortal) -> None:
        self.app = create_app(Settings(trainer="external"))
        self._portal = portal

    def get(self, path: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.get(path)

        return self._portal.call(ask)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with start_blocking_portal() as portal:
        yield Page(portal)


def test_the_page_is_served_at_the_root(page: Page) -> None:
    response = page.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Palate</title>" in response.text


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served_with_its_type(page: Page, name: str) -> None:
    response = page.get(f"/dashboard/{name}")
    types = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    assert response.status_code == 200
    assert response.content == (STATIC / name).read_bytes()
    assert response.headers["content-type"].split(";")[0] == types[Path(name).suffix]


@pytest.mark.parametrize("path", ["/", *(f"/dashboard/{name}" for name in FILES)])
def test_nothing_but_the_service_itself_may_load_or_frame_the_page(page: Page, path: str) -> None:
    headers = page.get(path).headers
    policy = dict(part.split(maxsplit=1) for part in headers["content-security-policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert policy.pop("frame-ancestors") == policy.pop("base-uri") == policy.pop("form-action") == "'none'"
    assert policy.pop("img-src") == "'self' blob:"  # pictures that are fetched with a key
    assert set(policy.values()) == {"'self'"}
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["nothing.js", "%2e%2e%2fapi.py", "..%5capi.py"])
def test_other_files_are_answered_with_a_problem(page: Page, name: str) -> None:
    response = page.get(f"/dashboard/{name}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_a_browser_that_has_the_file_is_told_so(page: Page) -> None:
    assert page.get("/dashboard/page.js").headers["etag"]
    assert page.get("/dashboard/page.js").headers["cache-control"] == "no-cache"


def test_everything_that_the_page_loads_exists_and_comes_from_here(page: Page) -> None:
    text = "".join((STATIC / name).read_text(encoding="utf-8") for name in FILES)
    loaded = set(re.findall(r"""["'(](/dashboard/[^"')]+)""", text))
    assert {f"/dashboard/{name}" for name in MODULES} <= loaded
    assert all(page.get(path).status_code == 200 for path in loaded)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_the_page_calls_only_operations_of_the_openapi_document(page: Page) -> None:
    calls = list(_calls((STATIC / "api.js").read_text(encoding="utf-8")))
    operations = {
        (method, re.sub(r"\{\w+\}", "{}", path))
        for path, methods in page.app.openapi()["paths"].items()
        for method in methods
    }
    assert len(calls) > 10
    assert set(calls) <= operations
    others = "".join((STATIC / name).read_text(encoding="utf-8") for name in MODULES if name != "api.js")
    assert "/v1/" not in others


def test_queries_of_the_page_name_parameters_that_exist(page: Page) -> None:
    text = (STATIC / "api.js").read_text(encoding="utf-8")
    for path, names in re.findall(r'get\("(/v1/[^"]+)", \{ ([\w, ]+) \}\)', text):
        declared = {parameter["name"] for parameter in _operation(page, path)["parameters"]}
        assert set(names.split(", ")) <= declared, path


def test_no_text_can_become_markup() -> None:
    for name in MODULES:
        text = (STATIC / name).read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), (
            name
        )


def test_no_style_or_script_stands_in_the_page_itself() -> None:
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)", text)


def _calls(source: str) -> Iterator[tuple[str, str]]:
    """(method, path) of every call in api.js, ids as {}."""
    methods = {"get": "get", "post": "post", "put": "put", "del": "delete", "Events": "get", "picture": "get"}
    for function, path in re.findall(r"\b(get|post|put|del|Events|picture)\((?:path`|\")(/v1/[^`\"]+)", source):
        yield methods[function], re.sub(r"\$\{\w+\}", "{}", path)


def _operation(page: Page, path: str) -> Any:
    return page.app.openapi()["paths"][path]["get"]
