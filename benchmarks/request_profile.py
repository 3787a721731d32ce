"""Where the microseconds of a recommendation go, inside the worker.

    .venv/bin/python -m benchmarks.request_profile FOLDER USER [--cached]

FOLDER is a service's data folder with an active version (`benchmarks.recommendations_http --keep FOLDER` leaves one).
Requests go straight to the ASGI app, without the server around it. Named parts are timed, each without the parts inside
it, in the fastest of eight rounds of 500. Prints a table for docs/lab-notes.md.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from app.db.connections import Reader
from app.engine.fold_in.fold_in import FoldIn
from app.engine.retrieval.brute_force import BruteForceRetriever
from app.engine.retrieval.index import TopNIndex
from app.main import create_app
from app.ratings import user_ratings
from app.recommendations import api, lists
from app.recommendations.catalog import CatalogView
from app.recommendations.serving_model import ServingModel
from app.settings import Settings

PARTS: tuple[tuple[str, Any, str], ...] = (
    ("reading the query string", api, "_parse_query"),
    ("was anything committed?", Reader, "data_version"),
    ("the user", lists, "list_for_user"),
    ("reading the ratings", user_ratings, "read_one"),
    ("has the user changed?", user_ratings, "read_state"),
    ("folding in", ServingModel, "user_of"),
    ("the best items", TopNIndex, "search"),
    ("the best items", BruteForceRetriever, "search"),
    ("values and intervals", FoldIn, "with_intervals"),
    ("JSON", CatalogView, "item_jsons"),
    ("JSON", CatalogView, "list_json"),
    ("ETag and response", api, "_revalidated"),
    ("the list around these", lists, "_list"),
)
ROUNDS, REQUESTS = 8, 500


class Stopwatch:
    """Time spent in functions, without that in timed functions that they call."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    def watch(self, label: str, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            self._inner.append(0.0)
            try:
                return original(*args, **kwargs)
            finally:
                taken = time.perf_counter() - started
                self.spent[label] += taken - self._inner.pop()
                if self._inner:
                    self._inner[-1] += taken

        setattr(owner, name, timed)


async def profile(settings: Settings, user: str) -> dict[str, float]:
    """Microseconds a request by part."""
    watch = Stopwatch()
    for part in PARTS:
        watch.watch(*part)
    app = create_app(settings)
    path = f"/v1/users/{user}/recommendations"
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
    }
    scope |= {"path": path, "raw_path": path.encode(), "query_string": b"n=10", "root_path": ""}
    scope["client"] = ("127.0.0.1", 1)  # keyless services answer this machine only

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200

    best: dict[str, float] = {}
    async with app.router.lifespan_context(app):
        for _ in range(ROUNDS):
            watch.spent.clear()
            started = time.perf_counter()
            for _ in range(REQUESTS):
                await app({**scope, "headers": [(b"host", b"localhost")]}, receive, send)
            whole = time.perf_counter() - started
            found = {**watch.spent, "FastAPI: routing, dependencies": whole - sum(watch.spent.values()), "all": whole}
            if not best or whole < best["all"]:
                best = found
    return {label: seconds / REQUESTS * 1e6 for label, seconds in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("user")
    parser.add_argument("--cached", action="store_true", help="cache users as the service does")
    arguments = parser.parse_args()
    cache_size = 1_000 if arguments.cached else 0
    settings = Settings(data_dir=arguments.folder, trainer="external", user_cache_size=cache_size)
    for label, micros in sorted(asyncio.run(profile(settings, arguments.user)).items(), key=lambda each: -each[1]):
        print(f"| {label} | {micros:.0f} |")


if __name__ == "__main__":
    main()
