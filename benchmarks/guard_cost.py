"""Microseconds that authentication and limits add to a request: the best of several rounds around an empty app.

.venv/bin/python -m benchmarks.guard_cost
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

import migrations
from app.api_keys import keys
from app.api_keys.guard import Guard
from app.api_keys.keyring import Keyring
from app.db.engine import open_database
from app.db.tables import utc_now
from app.http.body_limits import BodyLimits
from app.settings import Limits, Settings

N, ROUNDS = 20_000, 7
HEADERS = [(b"host", b"localhost:8000"), (b"user-agent", b"curl"), (b"accept", b"*/*"), (b"accept-encoding", b"gzip")]


async def _empty(_scope: Any, receive: Any, _send: Any) -> None:
    await receive()


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"{}", "more_body": False}


async def _send(_message: Any) -> None:
    pass


async def _microseconds(app: Any, scope: dict[str, Any]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(N):
            await app(scope, _receive, _send)
        best = min(best, time.perf_counter() - started)
    return 1e6 * best / N


async def _main(folder: Path) -> None:
    settings = Settings(data_dir=folder)
    database = open_database(settings)
    migrations.upgrade(database, settings)
    app = Starlette()
    app.state.keyring = keyring = Keyring(database)
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/v1/users/ann/recommendations", "root_path": ""}
    scope |= {"headers": HEADERS, "client": ("127.0.0.1", 1), "app": app}

    async def show(what: str, asked: dict[str, Any], **changed: Any) -> None:
        chosen = settings.model_copy(update=changed)
        guarded = Guard(BodyLimits(_empty, chosen.limits, ()), chosen)
        print(f"{what:<24}{await _microseconds(guarded, asked) - await _microseconds(_empty, asked):6.1f}")

    await show("PALATE_AUTH=off", scope, auth="off")
    await show("no keys, this machine", scope)
    with database.write() as connection:
        token = keys.create(connection, "web", ["admin"], utc_now()).token
    keyring.refresh()
    scope["headers"] = [*HEADERS, (b"authorization", f"Bearer {token}".encode())]
    await show("a key", scope)
    await show("a key, POST", scope | {"method": "POST", "path": "/v1/ratings"})
    await show("a key, counted", scope, limits=Limits(rate="100000000/minute"))
    database.dispose()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_main(Path(folder)))
