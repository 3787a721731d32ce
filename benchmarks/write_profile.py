"""Where the microseconds of a rating go, inside the worker.

    .venv/bin/python -m benchmarks.write_profile [--data S20] [--only sqlite|postgresql] [--postgres URL]

Ratings of stored users and items go straight to the ASGI app, one after the other, without the server around it.
Medians, each part without the parts inside it, and for comparison the raw driver's upsert as in
`benchmarks.write_speed`, whose databases are used. Prints rows of a table for docs/lab-notes.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import uvloop

from app.coalescer import Coalescer
from app.main import create_app
from app.ratings import upsert_postgres, upsert_sqlite
from benchmarks import write_speed
from benchmarks.datasets import DATA_FOLDER, data_set

REQUESTS, WARM_UP = 3_000, 300
_HEADERS = [(b"host", b"localhost"), (b"content-type", b"application/json")]
_SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/v1/ratings",
    "raw_path": b"/v1/ratings",
    "query_string": b"",
    "root_path": "",
    "headers": _HEADERS,
    "client": ("127.0.0.1", 1),  # keyless services answer this machine only
}


class Laps:
    """How long each call of some functions took, in microseconds."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = {}

    @contextmanager
    def lap(self, label: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.taken.setdefault(label, []).append(1e6 * (time.perf_counter() - started))

    def watch(self, owner: Any, name: str, label: str) -> None:
        original = getattr(owner, name)

        def timed(*args: Any) -> Any:
            with self.lap(label):
                return original(*args)

        async def timed_async(*args: Any) -> Any:
            with self.lap(label):
                return await original(*args)

        setattr(owner, name, timed_async if asyncio.iscoroutinefunction(original) else timed)

    def median(self, label: str) -> float:
        return statistics.median(self.taken[label][WARM_UP:])


async def _post_each(app: Any, laps: Laps, rows: list[write_speed.Row]) -> None:
    async def send(message: Any) -> None:
        assert message.get("status", 200) in (200, 201), message

    async with app.router.lifespan_context(app):
        for row in rows:
            body = json.dumps(write_speed._named(row)).encode()

            async def receive(body: bytes = body) -> dict[str, Any]:
                return {"type": "http.request", "body": body, "more_body": False}

            with laps.lap("request"):
                await app(dict(_SCOPE), receive, send)


def profile(sides: write_speed.Sides) -> None:
    """Prints a row for each part."""
    is_sqlite, laps = sides.kind == "sqlite", Laps()
    upsert = upsert_sqlite if is_sqlite else upsert_postgres
    laps.watch(Coalescer, "submit", "save")
    laps.watch(upsert, "commit_each", "commit")
    laps.watch(upsert, "upsert_each", "statements")
    app = create_app(sides._settings.model_copy(update={"trainer": "external"}))
    uvloop.run(_post_each(app, laps, sides._writes.rows(REQUESTS)))
    url = sides._bare_url
    raw: Any = write_speed._sqlite(url) if is_sqlite else psycopg.connect(url, autocommit=True)
    for row in sides._writes.rows(REQUESTS):
        with laps.lap("raw"):
            raw.execute(write_speed._UPSERT_SQLITE if is_sqlite else write_speed._UPSERT_POSTGRESQL, row)
    raw.close()
    request, save, commit, statements = map(laps.median, ("request", "save", "commit", "statements"))
    for part, micros in (
        ("guards, route, body, answer", request - save),
        ("gathering, to the writer's thread and back", save - commit),
        ("connection" + ", begin and commit" * is_sqlite, commit - statements),
        ("statements" + " with the commit" * (not is_sqlite), statements),
        ("all", request),
        ("the raw upsert with its commit", laps.median("raw")),
    ):
        print(f"| {sides.kind} | {part} | {micros:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="S1", choices=("S1", "S20"))
    parser.add_argument("--only", choices=tuple(write_speed.BULK))
    parser.add_argument("--postgres", help="URL of an empty database")
    arguments = parser.parse_args()
    data_set(arguments.data)
    home = Path(tempfile.mkdtemp())
    home.chmod(0o755)  # as root the server runs as another user
    try:
        for kind in [arguments.only] if arguments.only else list(write_speed.BULK):
            with write_speed.sides(kind, home, arguments, DATA_FOLDER / arguments.data) as sides:
                profile(sides)
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
