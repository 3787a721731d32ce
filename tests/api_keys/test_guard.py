"""Who is answered: every operation with no key, with each scope, from here and from elsewhere."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import anyio
import httpx
import pytest
from fastapi import FastAPI

from app.api_keys import keys
from app.api_keys.guard import is_loopback, required_scope
from app.api_keys.keys import KeyScope
from app.db.engine import Database, open_database
from app.main import create_app
from app.settings import Settings
from tests.asgi import serving

SCOPES: tuple[KeyScope, ...] = ("read", "write", "admin")
OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in create_app(Settings(trainer="external")).openapi()["paths"].items()
    for method, operation in methods.items()
]
OPEN_TO_ALL = {"GET /healthz", "GET /readyz"}
FOR_ADMINS = {
    "GET /v1/keys",
    "POST /v1/keys",
    "DELETE /v1/keys/{key_id}",
    "GET /v1/ratings/export",
    "POST /v1/training-runs",
    "POST /v1/training-runs/{run_id}/cancel",
    "POST /v1/searches",
    "POST /v1/searches/{search_id}/cancel",
    "POST /v1/models/{version}/activate",
    "DELETE /v1/models/{version}",
}
FOR_WRITERS = {
    "POST /v1/ratings",
    "POST /v1/ratings/batch",
    "POST /v1/ratings/import",
    "PUT /v1/users/{user_id}/ratings/{item_id}",
    "DELETE /v1/users/{user_id}/ratings/{item_id}",
    "DELETE /v1/users/{user_id}",
    "POST /v1/items/batch",
    "PUT /v1/items/{item_id}",
    "PATCH /v1/items/{item_id}",
    "DELETE /v1/items/{item_id}",
}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def make(database: Database, *scopes: KeyScope, name: str = "", lifetime: timedelta | None = None) -> str:
    """A key that another process makes: this one hears of it when it is used."""
    with database.write() as connection:
        now = database.now(connection)
        made = keys.create(connection, name or "+".join(scopes), scopes, now, now + lifetime if lifetime else None)
    return made.token


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
def client(app: FastAPI) -> Iterator[httpx.Client]:
    with serving(app) as client:
        yield client


def test_a_key_is_asked_for_from_the_first_one_on(client: httpx.Client, app: FastAPI, database: Database) -> None:
    assert client.get("/v1/status").status_code == 200
    token = make(database, "read")
    app.state.keyring.refresh()
    refused = client.get("/v1/status")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert refused.headers["content-type"] == "application/problem+json"
    assert "Authorization: Bearer" in refused.json()["detail"]
    assert client.get("/v1/status", headers=bearer(token)).status_code == 200


def test_a_key_that_another_process_just_made_works_at_once(
    client: httpx.Client, app: FastAPI, database: Database
) -> None:
    make(database, "admin")
    app.state.keyring.refresh()
    app.state.keyring.stop()  # it does not look by itself any more
    token = make(database, "read")
    assert client.get("/v1/status", headers=bearer(token)).status_code == 200


def test_a_revoked_key_is_refused_by_other_processes_within_two_seconds_and_by_this_one_at_once(
    client: httpx.Client, app: FastAPI, database: Database
) -> None:
    admin, token = make(database, "admin"), make(database, "read")
    app.state.keyring.refresh()
    with database.write() as connection:
        keys.revoke(connection, "read", database.now(connection))
    deadline = time.monotonic() + 20
    while client.get("/v1/status", headers=bearer(token)).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.get("/v1/status", headers=bearer(token)).status_code == 401

    made = client.post("/v1/keys", json={"name": "web", "scopes": ["read"]}, headers=bearer(admin)).json()
    assert client.get("/v1/status", headers=bearer(made["key"])).status_code == 200
    assert client.delete(f"/v1/keys/{made['id']}", headers=bearer(admin)).status_code == 204
    assert client.get("/v1/status", headers=bearer(made["key"])).status_code == 401


def test_revoking_the_last_key_does_not_open_the_service_again(
    client: httpx.Client, app: FastAPI, database: Database
) -> None:
    make(database, "admin")
    with database.write() as connection:
        keys.revoke(connection, "admin", database.now(connection))
    app.state.keyring.refresh()
    assert client.get("/v1/status").status_code == 401


def test_an_expired_key_is_refused_and_the_problem_says_so(
    client: httpx.Client, app: FastAPI, database: Database
) -> None:
    token = make(database, "read", lifetime=timedelta(seconds=1.5))
    app.state.keyring.refresh()
    assert client.get("/v1/status", headers=bearer(token)).status_code == 200
    time.sleep(1.6)
    refused = client.get("/v1/status", headers=bearer(token))
    assert refused.status_code == 401
    assert "has expired" in refused.json()["detail"]


@pytest.mark.parametrize("spoil", [lambda key: key[:-1] + ("a" if key[-1] != "a" else "b"), lambda key: key + "a"])
def test_a_key_that_differs_in_its_last_character_is_refused(
    client: httpx.Client, app: FastAPI, database: Database, spoil: Callable[[str], str]
) -> None:
    token = make(database, "admin")
    app.state.keyring.refresh()
    refused = client.get("/v1/status", headers=bearer(spoil(token)))
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')
    assert client.get("/v1/status", headers=bearer(token)).status_code == 200


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer \xff", "Bearer plt_", "Bearer " + "x" * 10_000]
)
def test_what_is_no_key_is_refused(client: httpx.Client, app: FastAPI, database: Database, header: str) -> None:
    make(database, "admin")
    app.state.keyring.refresh()
    refused = client.get("/v1/status", headers={"Authorization": header.encode("latin-1")})  # type: ignore[dict-item]
    assert refused.status_code == 401


@contextmanager
def _with_keys(settings: Settings) -> Iterator[tuple[httpx.Client, dict[str, str]]]:
    app = create_app(settings)
    with serving(app) as client:
        tokens = {scope: make(app.state.database, scope) for scope in SCOPES}
        app.state.keyring.refresh()
        yield client, tokens


def test_every_operation_is_closed_without_a_key_and_open_to_its_scope_and_to_admins_alone(
    sqlite_settings: Settings,
) -> None:
    ids = {"user_id": "ann", "item_id": "dune", "run_id": 99, "search_id": 99, "version": 99, "key_id": 99}
    with _with_keys(sqlite_settings) as (client, tokens):
        for method, path, operation in OPERATIONS:
            name, address = f"{method} {path}", path.format(**ids)
            scope = "admin" if name in FOR_ADMINS else "write" if name in FOR_WRITERS else "read"
            if name in OPEN_TO_ALL:
                assert operation["security"] == []
                assert client.request(method, address).status_code == 200
                continue
            assert operation["security"] == [{"api_key": [scope]}], name
            assert {"401", "403", "429"} <= operation["responses"].keys(), name
            assert client.request(method, address).status_code == 401, name
            for held, token in tokens.items():
                status = client.request(method, address, headers=bearer(token)).status_code
                assert (status == 403) == (held not in {scope, "admin"}), (name, held, status)
                assert status != 401, (name, held)


def test_an_item_with_the_name_of_an_operation_needs_what_every_item_needs() -> None:
    """PUT /v1/items/similar was open to readers: its path is also that of a question, which is asked by POST."""
    named = {f"{method} {path}": required_scope(method, path) for method, path, _ in OPERATIONS}
    words = {part for _, path, _ in OPERATIONS for part in path.split("/") if part and not part.startswith("{")}
    for method, path, _ in OPERATIONS:
        for word in words:
            as_item = re.sub(r"\{\w+\}", word, path)
            expected = named.get(f"{method} {as_item}", required_scope(method, path))
            assert required_scope(method, as_item) == expected, (method, as_item)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/v1/keys/",
            "/v1/%6beys",
            "/v1/keys%2f",
            "/v1/keys;x",
            "/v1/keys?x=1",
            "//v1/keys",
            "/v1//keys",
            "/v1/./keys",
        ),
        *("/v1/ratings/export/", "/v1/ratings/%65xport", "/v1/ratings//export", "/V1/ratings/export"),
        *("/dashboard/../v1/keys", "/dashboard/..%2f..%2fv1%2fkeys", "/static-offline-docs/..%2f..%2fv1%2fkeys"),
        *("/dashboard/%2e%2e/api.py", "/dashboard/..%2fapi.py", "/static-offline-docs/..%2f..%2f..%2fetc%2fpasswd"),
    ],
)
def test_no_spelling_of_a_path_leads_around_the_guard(sqlite_settings: Settings, path: str) -> None:
    with _with_keys(sqlite_settings) as (client, tokens):
        for headers in ({}, bearer(tokens["read"]), bearer(tokens["write"])):
            for method in ("GET", "HEAD", "POST"):
                headers = headers | {"X-HTTP-Method-Override": "GET"}
                answer = client.request(method, path, headers=headers, follow_redirects=True)
                assert answer.status_code in (401, 403, 404, 405), (method, path, answer.text)


def test_the_page_and_the_documents_need_no_key_and_a_path_that_nobody_listed_does(sqlite_settings: Settings) -> None:
    with _with_keys(sqlite_settings) as (client, _):
        for path in ("/", "/dashboard/page.js", "/docs", "/redoc", "/openapi.json", "/healthz", "/readyz"):
            assert client.get(path).status_code == 200, path
        for path in ("/v1/nothing", "/nothing", "/metrics", "/dashboard", "/v1/keys/", "//v1/keys"):
            assert client.get(path).status_code == 401, path


def test_a_proxys_prefix_does_not_hide_what_a_path_needs(sqlite_settings: Settings) -> None:
    app = create_app(sqlite_settings)
    with serving(app):
        token = make(app.state.database, "read")
        app.state.keyring.refresh()

        async def ask() -> list[int]:
            transport = httpx.ASGITransport(app, root_path="/palate")
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost/palate") as client:
                return [
                    (await client.get(path, headers=bearer(token))).status_code
                    for path in ("/v1/status", "/v1/keys", "/v1/ratings/export")
                ]

        assert anyio.run(ask) == [200, 403, 403]


def test_the_document_has_the_scheme_that_the_authorize_button_uses(sqlite_settings: Settings) -> None:
    document = create_app(sqlite_settings).openapi()
    [scheme] = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    open_document = create_app(sqlite_settings.model_copy(update={"auth": "off"})).openapi()
    assert "securitySchemes" not in open_document["components"]


def ask_from(app: FastAPI, address: str, host: str = "localhost:8000", origin: str | None = None) -> httpx.Response:
    async def ask() -> httpx.Response:
        headers = {"Host": host} | ({"Origin": origin} if origin else {})
        transport = httpx.ASGITransport(app, client=(address, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
            return await client.get("/v1/status", headers=headers)

    return anyio.run(ask)


@pytest.mark.parametrize(
    ("address", "host", "origin", "status"),
    [
        ("127.0.0.1", "localhost:8000", None, 200),
        ("::1", "[::1]:8000", "http://[::1]:8000", 200),
        ("::ffff:127.0.0.1", "127.0.0.1", None, 200),
        ("192.168.1.7", "localhost:8000", None, 403),
        ("::ffff:192.168.1.7", "localhost:8000", None, 403),
        ("127.0.0.1", "palate.example:8000", None, 403),  # DNS rebinding
        ("127.0.0.1", "127.0.0.1.palate.example", None, 403),
        ("127.0.0.1", "localhost:8000", "http://palate.example", 403),  # a form on another site
        ("127.0.0.1", "localhost:8000", "null", 403),
    ],
)
def test_without_any_key_only_this_machine_is_answered(
    sqlite_settings: Settings, address: str, host: str, origin: str | None, status: int
) -> None:
    app = create_app(sqlite_settings)
    with serving(app):
        answer = ask_from(app, address, host, origin)
        assert answer.status_code == status
        if status == 403:
            assert answer.headers["content-type"] == "application/problem+json"
            assert "there are no API keys yet" in answer.json()["detail"]


def test_with_auth_off_everybody_is_answered_but_nobody_makes_keys(sqlite_settings: Settings) -> None:
    app = create_app(sqlite_settings.model_copy(update={"auth": "off"}))
    with serving(app) as client:
        assert ask_from(app, "192.168.1.7", "palate.example").status_code == 200
        assert client.post("/v1/keys", json={"name": "later", "scopes": ["admin"]}).status_code == 403
        make(app.state.database, "admin")
        app.state.keyring.refresh()
        assert client.get("/v1/status").status_code == 200


def test_refusals_and_uses_are_logged_and_no_line_holds_a_key(
    sqlite_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    app = create_app(sqlite_settings)
    with serving(app) as client:
        admin = make(app.state.database, "admin")
        app.state.keyring.refresh()
        made = client.post("/v1/keys", json={"name": "web", "scopes": ["read"]}, headers=bearer(admin)).json()
        client.get("/v1/keys", headers=bearer(made["key"]))
        client.get("/v1/status", headers=bearer(made["key"] + "x"))
        client.get("/v1/status", headers=bearer("somebody's password"))
        client.get("/v1/status", headers={"Authorization": b"Bearer plt_\x9b31m\x85line" + b"x" * 40})  # type: ignore[dict-item]
        client.delete(f"/v1/keys/{made['id']}", headers=bearer(admin))
        client.get("/v1/status", headers=bearer(made["key"]))
    said = caplog.text
    assert f"API key 'web' ({made['prefix']}) was created by 'admin' ({admin[:12]})" in said
    assert f"refused GET '/v1/keys' from 127.0.0.1: API key {made['prefix']}... lacks the scope 'admin'" in said
    assert f"API key {made['prefix']}... is unknown or revoked" in said
    assert f"API key 'admin' ({admin[:12]}): 2 requests since its last log line" in said
    for secret in (admin[13:], made["key"][13:], "somebody's password"):
        assert secret not in said
    assert all(line.isprintable() for line in said.splitlines())
    assert len(said.splitlines()) == said.count("\n")


def test_the_last_use_is_recorded(client: httpx.Client, app: FastAPI, database: Database) -> None:
    token = make(database, "admin")
    app.state.keyring.refresh()
    assert client.get("/v1/keys", headers=bearer(token)).json()["keys"][0]["last_used_at"] is None
    deadline = time.monotonic() + 20
    while client.get("/v1/keys", headers=bearer(token)).json()["keys"][0]["last_used_at"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_keys_stay_good_while_the_database_is_away(app: FastAPI, client: httpx.Client, database: Database) -> None:
    token = make(database, "read")
    app.state.keyring.refresh()

    gone = open_database(Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing"))
    app.state.keyring._database = gone
    assert client.get("/healthz").status_code == 200
    assert client.get("/v1/items/popular", headers=bearer(token)).status_code == 200
    assert client.get("/v1/items/popular", headers=bearer(token + "x")).status_code == 401
    app.state.keyring.stop()
    gone.dispose()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "::ffff:127.0.0.1"])
def test_addresses_of_this_machine_are_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "palate.example", ""])
def test_other_addresses_are_not_taken_for_this_machine(host: str) -> None:
    assert not is_loopback(host)


def test_a_method_that_nobody_thought_of_needs_an_admin() -> None:
    assert required_scope("TRACE", "/v1/status") == "admin"


def test_the_key_itself_is_stored_nowhere(sqlite_settings: Settings) -> None:
    app = create_app(sqlite_settings)
    with serving(app) as client:
        made = client.post("/v1/keys", json={"name": "first", "scopes": ["admin"]})
        assert made.headers["cache-control"] == "no-store"
        token = made.json()["key"]
        assert token not in client.get("/v1/keys", headers=bearer(token)).text
    written = b"".join(path.read_bytes() for path in Path(sqlite_settings.data_dir).glob("palate.db*"))
    assert token[:12].encode() in written
    assert token[13:].encode() not in written
