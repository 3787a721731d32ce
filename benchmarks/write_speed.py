"""POST /v1/ratings and /v1/ratings/batch compared with the raw driver, on SQLite and PostgreSQL.

    .venv/bin/python -m benchmarks.write_speed [--data S20] [--only sqlite|postgresql] [--postgres URL, empty database]

One: our route and a bare route of the same server and framework, one worker each. The bare route does one upsert of the
ratings table by integer keys with the raw driver and commits before it responds (no ids to look up, no counters, no
response but "ok"). Many: the batch route and the best of several bulk upserts of the raw driver into the same table, in
transactions of as many rows. Both sides have a copy of one filled database and the same durability; half of the ratings
replace stored ones. Rounds take turns; figures are medians. A separate process generates the load over keep-alive
connections.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
import uvloop
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import create_engine, make_url, text

from app.demo.service_process import free_port, running_service
from app.settings import Settings
from benchmarks.datasets import DATA_FOLDER, Part, data_set, load
from benchmarks.filled_databases import filled, postgres

BATCH = 1_000
POOL = 8  # connections of the bare PostgreSQL route; more were not faster
Row = tuple[int, int, float, int, int]

_UPSERT = """
    INSERT INTO ratings (user_key, item_key, value, rated_at, revision) {rows}
    ON CONFLICT (user_key, item_key) DO UPDATE
    SET value = excluded.value, rated_at = excluded.rated_at, revision = excluded.revision"""
_UPSERT_SQLITE = _UPSERT.format(rows="VALUES (?, ?, ?, ?, ?)")
_UPSERT_POSTGRESQL = _UPSERT.format(rows="VALUES (%s, %s, %s, %s, %s)")
_COLUMNS = "(user_key int, item_key int, value float8, rated_at bigint, revision bigint)"


# --- the bare route ---------------------------------------------------------------------------------------------


class KeyedRating(BaseModel):
    user_id: int
    item_id: int
    value: float


def bare_app() -> FastAPI:
    """One route that writes one rating with the driver of BARE_DATABASE, the fastest way found for each."""
    url = os.environ["BARE_DATABASE"]
    app = FastAPI(lifespan=_bare_postgresql if url.startswith("postgresql") else _bare_sqlite)

    @app.post("/v1/ratings")
    async def add_rating(body: KeyedRating) -> dict[str, str]:
        await app.state.write((body.user_id, body.item_id, body.value, time.time_ns() // 1000, 1))
        return {"outcome": "ok"}

    return app


def _sqlite(path: str) -> sqlite3.Connection:
    """A connection with the settings of the service's own."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("synchronous=full", "journal_mode=WAL", "cache_size=-65536", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


@asynccontextmanager
async def _bare_sqlite(app: FastAPI) -> Any:
    connection = _sqlite(os.environ["BARE_DATABASE"])

    async def write(row: Row) -> None:
        connection.execute(_UPSERT_SQLITE, row)  # in place: a thread costs more than it frees

    app.state.write = write
    yield
    connection.close()


@asynccontextmanager
async def _bare_postgresql(app: FastAPI) -> Any:
    free: asyncio.Queue[psycopg.AsyncConnection] = asyncio.Queue()
    for _ in range(POOL):
        free.put_nowait(await psycopg.AsyncConnection.connect(os.environ["BARE_DATABASE"], autocommit=True))

    async def write(row: Row) -> None:
        connection = await free.get()
        try:
            await connection.execute(_UPSERT_POSTGRESQL, row)
        finally:
            free.put_nowait(connection)

    app.state.write = write
    yield
    while not free.empty():
        await free.get_nowait().close()


@contextmanager
def bare_service(url: str) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.write_speed:bare_app", "--no-access-log"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--log-level", "warning"], env={**os.environ, "BARE_DATABASE": url}
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address)
        yield address
    finally:
        process.terminate()
        process.wait()


def _wait_for(address: str) -> None:
    for _ in range(200):
        try:
            httpx.get(address)
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise SystemExit(f"{address} did not start")


# --- the load ---------------------------------------------------------------------------------------------------


class _Connection(asyncio.Protocol):
    """Sends the next request as soon as the last is answered, until the time is over."""

    def __init__(self, requests: Iterator[bytes], deadline: float, latencies: list[float]) -> None:
        self._requests, self._deadline, self._latencies = requests, deadline, latencies
        self._received = b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        request = next(self._requests, None) if self._sent_at < self._deadline else None
        if request is None:
            self.done.set_result(None)
            self._transport.close()
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")):
            raise SystemExit(f"refused: {self._received[:500]!r}")
        self._received = b""
        self._latencies.append(time.perf_counter() - self._sent_at)
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server hung up"))


def _generate(port: int, requests: Sequence[bytes], connections: int, seconds: float, answers: Any) -> None:
    async def run() -> None:
        loop, latencies = asyncio.get_running_loop(), list[float]()
        each, started = iter(requests), time.perf_counter()
        opened = [
            await loop.create_connection(lambda: _Connection(each, started + seconds, latencies), "127.0.0.1", port)
            for _ in range(connections)
        ]
        await asyncio.gather(*(protocol.done for _, protocol in opened))
        answers.put((time.perf_counter() - started, latencies))

    uvloop.run(run())


def load_on(address: str, requests: Sequence[bytes], connections: int, seconds: float) -> tuple[float, float, float]:
    """Requests a second, and the median and 99th percentile of their times in ms."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    port = int(address.rpartition(":")[2])
    process = context.Process(target=_generate, args=(port, requests, connections, seconds, answers))
    process.start()
    took, latencies = answers.get(timeout=60)
    process.join()
    p50, p99 = np.percentile(np.array(latencies) * 1e3, [50, 99])
    return len(latencies) / took, float(p50), float(p99)


def request(path: str, body: Any) -> bytes:
    encoded = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(encoded)}\r\n\r\n".encode() + encoded


# --- the ratings ------------------------------------------------------------------------------------------------


class Writes:
    """Ratings to write, each pair once in a while: half of them stored already, in random order."""

    def __init__(self, part: Part, n_users: int, n_items: int) -> None:
        self._part, self._n_users, self._n_items = part, n_users, n_items
        self._random = np.random.default_rng(0)

    def rows(self, n: int) -> list[Row]:
        stored = self._random.integers(0, len(self._part), n // 2)
        users = np.concatenate([self._part.users[stored] + 1, self._random.integers(1, self._n_users + 1, n - n // 2)])
        items = np.concatenate([self._part.items[stored] + 1, self._random.integers(1, self._n_items + 1, n - n // 2)])
        order = self._random.permutation(n)
        values = self._random.integers(1, 11, n) / 2
        pairs = zip(users[order].tolist(), items[order].tolist(), values.tolist(), strict=True)
        return [(user, item, value, time.time_ns() // 1000, 1) for user, item, value in pairs]

    def scattered(self) -> list[Row]:
        """`BATCH` ratings of random users: each lies on another page of the table."""
        return list({row[:2]: row for row in self.rows(BATCH + BATCH // 10)}.values())[:BATCH]

    def by_user(self) -> list[Row]:
        """`BATCH` ratings of eight users, about half of them new."""
        rows: dict[tuple[int, int], Row] = {}
        while len(rows) < BATCH:
            user = int(self._random.integers(self._n_users))
            stored = self._part.items[slice(*np.searchsorted(self._part.users, [user, user + 1]))] + 1
            stored = self._random.permutation(stored)[: BATCH // 16]
            other = self._random.integers(1, self._n_items + 1, BATCH // 8 - stored.size)
            for item in np.concatenate([stored, other]).tolist():
                value = float(self._random.integers(1, 11)) / 2
                rows[user + 1, item] = (user + 1, item, value, time.time_ns() // 1000, 1)
        return list(rows.values())[:BATCH]


def _named(row: Row) -> dict[str, Any]:
    return {"user_id": str(row[0]), "item_id": str(row[1]), "value": row[2]}


def _keyed(row: Row) -> dict[str, Any]:
    return {"user_id": row[0], "item_id": row[1], "value": row[2]}


# --- the raw driver's bulk upserts --------------------------------------------------------------------------------


def _executemany(connection: Any, rows: list[Row]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_UPSERT_SQLITE, rows)
    connection.execute("COMMIT")


def _executemany_sorted(connection: Any, rows: list[Row]) -> None:
    _executemany(connection, sorted(rows))


def _json_each(connection: Any, rows: list[Row]) -> None:
    wanted = ", ".join(f"value ->> {place}" for place in range(5))
    connection.execute(
        _UPSERT.format(rows=f"SELECT {wanted} FROM json_each(?) WHERE true"), (json.dumps(sorted(rows)),)
    )


def _pg_executemany(connection: Any, rows: list[Row]) -> None:
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(_UPSERT_POSTGRESQL, rows)


def _unnest(connection: Any, rows: list[Row]) -> None:
    columns = [list(column) for column in zip(*sorted(rows), strict=True)]
    given = "SELECT * FROM unnest(%s::int[], %s::int[], %s::float8[], %s::bigint[], %s::bigint[])"
    connection.execute(_UPSERT.format(rows=given), columns)


def _unnest_text(connection: Any, rows: list[Row]) -> None:
    columns = ["{" + json.dumps(column)[1:-1] + "}" for column in zip(*sorted(rows), strict=True)]
    given = "SELECT * FROM unnest(%s::int[], %s::int[], %s::float8[], %s::bigint[], %s::bigint[])"
    connection.execute(_UPSERT.format(rows=given), columns)


def _json_recordset(connection: Any, rows: list[Row]) -> None:
    names = ("user_key", "item_key", "value", "rated_at", "revision")
    given = f"SELECT * FROM json_to_recordset(%s::json) AS given {_COLUMNS}"
    encoded = json.dumps([dict(zip(names, row, strict=True)) for row in sorted(rows)])
    connection.execute(_UPSERT.format(rows=given), (encoded,))


def _copy(connection: Any, rows: list[Row]) -> None:
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMP TABLE IF NOT EXISTS given {_COLUMNS} ON COMMIT DELETE ROWS")
        with cursor.copy("COPY given FROM STDIN") as copy:
            copy.write("".join(f"{u}\t{i}\t{v!r}\t{t}\t{r}\n" for u, i, v, t, r in sorted(rows)))
        cursor.execute(_UPSERT.format(rows="SELECT * FROM given"))


BULK: dict[str, dict[str, Callable[[Any, list[Row]], None]]] = {
    "sqlite": {"executemany": _executemany, "executemany, sorted": _executemany_sorted, "json_each": _json_each},
    "postgresql": {
        "executemany": _pg_executemany,
        "unnest, lists": _unnest,
        "unnest, text": _unnest_text,
        "json_to_recordset": _json_recordset,
        "COPY and merge": _copy,
    },
}


def bulk_rate(connection: Any, act: Callable[[Any, list[Row]], None], batches: list[list[Row]]) -> float:
    started = time.perf_counter()
    for rows in batches:
        act(connection, rows)
    return sum(map(len, batches)) / (time.perf_counter() - started)


# --- the two comparisons ------------------------------------------------------------------------------------------


class Sides:
    """Both sides of a comparison, on copies of one database."""

    def __init__(self, kind: str, settings: Settings, bare_url: str, writes: Writes) -> None:
        self.kind, self._settings, self._bare_url, self._writes = kind, settings, bare_url, writes

    @contextmanager
    def _ours(self) -> Iterator[str]:
        environment = {"PALATE_TRAINER": "external", "PALATE_SQLITE_SYNCHRONOUS": self._settings.sqlite_synchronous}
        if self._settings.database_url:
            environment["PALATE_DATABASE_URL"] = self._settings.database_url
        with running_service(self._settings.data_dir, environment=environment) as service:
            yield service.url

    def one(self, connections: Sequence[int], rounds: int, seconds: float) -> None:
        """Prints the rates of both routes, each under the same load in turn."""
        with self._ours() as ours, bare_service(self._bare_url) as bare:
            for n in connections:
                found: dict[str, list[tuple[float, float, float]]] = {"ours": [], "bare": []}
                for round_ in range(-1, rounds):  # the first warms up
                    rows = self._writes.rows(20_000)
                    named = [request("/v1/ratings", _named(row)) for row in rows]
                    keyed = [request("/v1/ratings", _keyed(row)) for row in rows]
                    for side, address, requests in (("ours", ours, named), ("bare", bare, keyed)):
                        result = load_on(address, requests, n, seconds)
                        if round_ >= 0:
                            found[side].append(result)
                self._print_one(n, found)

    def _print_one(self, n: int, found: dict[str, list[tuple[float, float, float]]]) -> None:
        for side, results in found.items():
            rate, p50, p99 = (statistics.median(column) for column in zip(*results, strict=True))
            print(
                f"{self.kind:11} POST /v1/ratings, {n:2} connections, {side}:"
                f" {rate:7,.0f} requests/s  p50 {p50:6.2f} ms  p99 {p99:6.2f} ms"
            )
        ratios = [ours[0] / bare[0] for ours, bare in zip(found["ours"], found["bare"], strict=True)]
        print(f"{'':11} ratio {statistics.median(ratios):.0%} (goal 50 %)   load {os.getloadavg()[0]:.1f}", flush=True)

    def many(self, connections: Sequence[int], rounds: int, n_batches: int) -> None:
        """Prints the rates of the batch route and of the raw bulk upserts, on batches of both kinds."""
        with self._ours() as ours:
            for kind, batch in (("scattered", self._writes.scattered), ("by user", self._writes.by_user)):
                found: dict[str, list[float]] = {}
                for round_ in range(-1, rounds):
                    for name, rate in self._rates(ours, batch, connections, n_batches):
                        if round_ >= 0:
                            found.setdefault(name, []).append(rate)
                self._print_many(kind, {name: statistics.median(rates) for name, rates in found.items()})

    def _rates(
        self, ours: str, batch: Callable[[], list[Row]], connections: Sequence[int], n_batches: int
    ) -> Iterator[tuple[str, float]]:
        """New batches for each: whoever comes second would find the rows there already.

        Each writes as many before, unmeasured: a server's buffers hold hardly more than one of the two databases, and
        whoever follows his own kind would find his pages in them.
        """
        is_sqlite = self.kind == "sqlite"
        raw: Any = _sqlite(self._bare_url) if is_sqlite else psycopg.connect(self._bare_url, autocommit=True)
        for name, act in BULK[self.kind].items():
            bulk_rate(raw, act, [batch() for _ in range(n_batches)])
            self._start_anew(raw)
            yield f"raw {name}", bulk_rate(raw, act, [batch() for _ in range(n_batches)])
        for n in connections:
            self._post(ours, batch, n, n_batches)
            self._start_anew(raw)
            yield f"POST batch, {n} connections", self._post(ours, batch, n, n_batches)
        raw.close()

    def _post(self, ours: str, batch: Callable[[], list[Row]], connections: int, n_batches: int) -> float:
        """Ratings a second of our route."""
        bodies = [{"ratings": [_named(row) for row in batch()]} for _ in range(n_batches)]
        rate, _, _ = load_on(ours, [request("/v1/ratings/batch", body) for body in bodies], connections, 60)
        return BATCH * rate

    def _start_anew(self, raw: Any) -> None:
        """Start after a checkpoint, so that each side logs whole pages at its first writes."""
        if self.kind == "postgresql":
            raw.execute("CHECKPOINT")

    def _print_many(self, kind: str, medians: dict[str, float]) -> None:
        best = max(rate for name, rate in medians.items() if name.startswith("raw"))
        for name, rate in medians.items():
            print(
                f"{self.kind:11} {kind:10} {name:27} {rate:9,.0f} ratings/s {rate / best:5.0%} of best raw (goal 60 %)"
            )
        print(f"{'':11} load {os.getloadavg()[0]:.1f}", flush=True)


@contextmanager
def sides(kind: str, home: Path, arguments: argparse.Namespace, data: Path) -> Iterator[Sides]:
    part = load(data, "all")
    n_users, n_items = map(int, (data / "shape.txt").read_text().split())
    writes = Writes(part, n_users, n_items)
    if kind == "sqlite":
        settings = Settings(data_dir=home / "sqlite")
        filled(settings, part, n_users, n_items).dispose()
        bare = home / "bare.db"
        shutil.copy(settings.data_dir / "palate.db", bare)
        yield Sides(kind, settings, str(bare), writes)
        return
    with postgres(arguments.postgres, home / "server") as url:
        settings = Settings(data_dir=home / "postgresql", database_url=url)
        filled(settings, part, n_users, n_items).dispose()
        name = f"bare_{os.getpid()}"
        engine = create_engine(make_url(url).set(database="template1"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f'CREATE DATABASE {name} TEMPLATE "{make_url(url).database}"'))
        engine.dispose()
        bare_url = make_url(url).set(drivername="postgresql", database=name)
        yield Sides(kind, settings, bare_url.render_as_string(hide_password=False), writes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="S1", choices=("S1", "S20"))
    parser.add_argument("--only", choices=tuple(BULK))
    parser.add_argument("--part", choices=("one", "many"))
    parser.add_argument("--postgres", help="URL of an empty database")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of load a round and side")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--batches", type=int, default=40, help="of a thousand ratings a round")
    arguments = parser.parse_args()
    data_set(arguments.data)
    home = Path(tempfile.mkdtemp())
    home.chmod(0o755)  # as root the server runs as another user
    try:
        for kind in [arguments.only] if arguments.only else list(BULK):
            with sides(kind, home, arguments, DATA_FOLDER / arguments.data) as both:
                if arguments.part != "many":
                    both.one(arguments.connections, arguments.rounds, arguments.seconds)
                if arguments.part != "one":
                    both.many([1, 4], arguments.rounds, arguments.batches)
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
