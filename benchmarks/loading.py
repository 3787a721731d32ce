"""Loading all ratings into arrays, and updating a stored snapshot, on SQLite and PostgreSQL.

    .venv/bin/python -m benchmarks.loading [S1|S20] [--postgres URL of an empty database] [--keep folder]

Every figure is of a fresh process: the median of three for times, the most for memory, in bytes a rating above what
the process had before it began. A virtual machine may get its memory page by page from a busy host (here 0.1 to 0.5 s
for 240 MB at the first touch, 0.03 s later), so each process uses and frees some before the clock starts. With --keep
the filled databases are packed_rows there and used again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.db.engine import Database, open_database
from app.db.revisions import revision
from app.ratings import bulk_read, store
from app.ratings.models import NewRating
from app.settings import Settings
from app.training.snapshot import file
from app.training.snapshot.take import take_snapshot
from benchmarks.datasets import DATA_FOLDER, data_set, load
from benchmarks.filled_databases import filled, postgres

ROUNDS = 3
_TOUCHED = 800 << 20
CHANGED = 0.01
_SQLITE_DRIVER = "SELECT user_key, item_key, value FROM ratings"


def load_all(database: Database, _folder: Path) -> int:
    with database.read() as connection:
        return int(bulk_read.load_all(connection).values.size)


def load_all_one_connection(database: Database, folder: Path) -> int:
    bulk_read._READERS = 1
    return load_all(database, folder)


def fromiter(database: Database, _folder: Path) -> int:
    with database.read() as connection:
        return int(np.fromiter(_cursor(connection).execute(_SQLITE_DRIVER), np.dtype("i4,i4,f4")).size)


def fetchmany(database: Database, _folder: Path) -> int:
    chunks = []
    with database.read() as connection:
        cursor = _cursor(connection).execute(_SQLITE_DRIVER)
        while rows := cursor.fetchmany(100_000):
            chunks.append(np.array(rows, np.dtype("i4,i4,f4")))
    return int(np.concatenate(chunks).size)


def packed_columns(database: Database, _folder: Path) -> int:
    """One packed value per 2,048 pages and column, over one connection."""
    wanted = ", ".join(f"string_agg({one}, '')" for one in ("int4send(user_key)", "int4send(item_key)"))
    return _by_pages(database, f"{wanted}, string_agg(float4send(value::real), '')")


def array_columns(database: Database, _folder: Path) -> int:
    wanted = ", ".join(f"array_send(array_agg({one}))" for one in ("user_key", "item_key", "value"))
    return _by_pages(database, wanted)


def binary_copy(database: Database, _folder: Path) -> int:
    """COPY in binary, row by row as psycopg hands it out."""
    n, packed_rows = 0, []
    with (
        database.read() as connection,
        _cursor(connection) as cursor,
        cursor.copy("COPY (SELECT user_key, item_key, value::real FROM ratings) TO STDOUT (FORMAT binary)") as copy,
    ):
        for row in copy:
            packed_rows.append(bytes(row))
            if len(packed_rows) == 1 << 16:
                n, packed_rows = n + len(b"".join(packed_rows)) // 26, []
    return n


def full_snapshot(database: Database, folder: Path) -> int:
    file.discard(folder)
    return len(take_snapshot(database, folder).ratings)


def update(database: Database, folder: Path) -> int:
    return len(take_snapshot(database, folder).ratings)


PATHS: dict[str, dict[str, Callable[[Database, Path], int]]] = {
    "sqlite": {
        "load_all": load_all,
        "driver, fromiter": fromiter,
        "driver, fetchmany": fetchmany,
    },
    "postgresql": {
        "load_all": load_all,
        "load_all, one connection": load_all_one_connection,
        "packed columns": packed_columns,
        "arrays by column": array_columns,
        "COPY binary": binary_copy,
    },
}


def _cursor(connection: Connection) -> Any:
    driver: Any = connection.connection.driver_connection
    return driver.cursor()


def _by_pages(database: Database, wanted: str) -> int:
    n_bytes = 0
    with database.read() as connection:
        bulk_read.hold_snapshot(connection)
        driver: Any = connection.connection.driver_connection
        with driver.cursor(binary=True) as cursor:
            cursor.execute("SELECT pg_relation_size('ratings') / current_setting('block_size')::int")
            for first in range(0, cursor.fetchone()[0], 2048):
                pages = f"ctid >= '({first},0)'::tid AND ctid < '({first + 2048},0)'::tid"
                cursor.execute(f"SELECT {wanted} FROM ratings WHERE {pages}")
                n_bytes += len(cursor.fetchone()[0] or b"")
    return n_bytes


def peak_memory() -> int:
    """Bytes that this process held at its peak, mapped files included; Linux only."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _measured(
    action: Callable[[Database, Path], int], settings: Settings, folder: Path, answers: multiprocessing.Queue[Any]
) -> None:
    import app.training.snapshot.kernels  # noqa: F401  compiled before the clock starts
    from app.engine.data.statistics import count_rows

    count_rows(np.zeros(1, np.int32), 1)  # Numba takes 7 ms for the first call in a process, whatever it calls
    database = open_database(settings)
    with database.read() as connection:
        connection.exec_driver_sql("SELECT 1")
    np.ones(_TOUCHED // 8).sum()  # memory that the host takes its time to hand out has been used before
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew; getrusage's is the parent's to begin with
    before = peak_memory()
    started = time.perf_counter()
    n = action(database, folder)
    seconds = time.perf_counter() - started
    answers.put((seconds, peak_memory() - before, n))


def measure(
    label: str, action: Callable[[Database, Path], int], settings: Settings, folder: Path, n_ratings: int, rounds: int
) -> float:
    """Median seconds of fresh processes; prints a line."""
    context = multiprocessing.get_context("spawn")
    found = []
    for _ in range(rounds):
        answers = context.Queue()
        process = context.Process(target=_measured, args=(action, settings, folder, answers))
        process.start()
        while process.is_alive() and answers.empty():
            time.sleep(0.01)
        if process.exitcode:
            raise SystemExit(f"{label} failed")
        found.append(answers.get(timeout=10))
        process.join()
    seconds: float = statistics.median(one[0] for one in found)
    memory = max(one[1] for one in found) / n_ratings
    print(
        f"{label:40}{seconds:9.3f} s{n_ratings / seconds / 1e6:9.2f} M/s{memory:8.1f} B/rating"
        f"   load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return seconds


def change(database: Database, n_users: int, n_items: int, n_ratings: int) -> None:
    """1 % changes through the service's own functions: nine tenths written, a tenth deleted."""
    with database.read() as connection:
        random = np.random.default_rng(revision(connection, "ratings"))
    n = int(CHANGED * n_ratings)
    users, items = random.integers(1, n_users + n_users // 100, n), random.integers(1, n_items + n_items // 100, n)
    values = random.integers(1, 10, n) / 2
    ratings = [NewRating(str(u), str(i), float(v)) for u, i, v in zip(users, items, values, strict=True)]
    for start in range(0, n, 20_000):
        with database.write() as connection:
            store.save_many(connection, ratings[start : start + 20_000])
    with database.write() as connection:
        for rating in {one[:2]: one for one in ratings[: n // 10]}.values():
            store.remove(connection, rating.user_id, rating.item_id)


def run(kind: str, name: str, settings: Settings, only_snapshots: bool) -> None:
    data = DATA_FOLDER / name
    n_users, n_items = map(int, (data / "shape.txt").read_text().split())
    database = filled(settings, load(data, "all"), n_users, n_items)
    with database.read() as connection:
        n = store.totals(connection).n_ratings
    folder = settings.data_dir / "snapshot"
    print(f"\n{kind}, {name}: {n:,} ratings")
    for label, action in ({} if only_snapshots else PATHS[kind]).items():
        measure(label, action, settings, folder, n, ROUNDS if label == "load_all" else 1)
    ratios = []
    for _ in range(ROUNDS):
        full = measure("full snapshot (read, sorted, stored)", full_snapshot, settings, folder, n, 1)
        measure("update, nothing new", update, settings, folder, n, 1)
        change(database, n_users, n_items, n)
        seconds = measure(f"update after {CHANGED:.0%} changes", update, settings, folder, n, 1)
        ratios.append(seconds / full)
    print(f"update / full snapshot: median {statistics.median(ratios):.1%}, best {min(ratios):.1%}")
    database.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="S20", choices=("S1", "S20"))
    parser.add_argument("--only", choices=tuple(PATHS))
    parser.add_argument("--snapshots", action="store_true", help="leave out the ways of reading everything")
    parser.add_argument("--postgres", help="URL of an empty database")
    parser.add_argument("--keep", type=Path, help="folder for the filled databases")
    arguments = parser.parse_args()
    data_set(arguments.name)
    few = arguments.snapshots
    home = arguments.keep or Path(tempfile.mkdtemp())
    home.mkdir(exist_ok=True)
    home.chmod(0o755)  # as root the server runs as another user
    if arguments.only != "postgresql":
        run("sqlite", arguments.name, Settings(data_dir=home / "sqlite", sqlite_synchronous="normal"), few)
    if arguments.only != "sqlite":
        with postgres(arguments.postgres, home / "server") as url:
            run("postgresql", arguments.name, Settings(data_dir=home / "postgresql", database_url=url), few)
    if not arguments.keep:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
