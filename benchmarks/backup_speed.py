"""Duration and memory of a backup, and of restoring it into either kind of database.

    .venv/bin/python -m benchmarks.backup_speed S1 --folder /tmp/palate-backups [--postgres URL]

Each step runs in its own process. The filled databases stay in the folder; restored ones are removed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from sqlalchemy import create_engine, make_url, text

import migrations
from app.backup.backup import back_up
from app.backup.restore import restore
from app.db.engine import open_database
from app.settings import Settings
from benchmarks.datasets import DATA_FOLDER, load
from benchmarks.filled_databases import filled, postgres


def _settings(folder: Path, url: str) -> Settings:
    return Settings(data_dir=folder, database_url=url or None, trainer="external")


def _step(step: str, folder: Path, url: str, archive: Path) -> None:
    """One backup or restore in this process; prints time and memory."""
    settings = _settings(folder, url)
    database = open_database(settings)
    if step == "restore":
        migrations.upgrade(database, settings)
    started = time.perf_counter()
    done = back_up(database, settings, archive) if step == "backup" else restore(database, settings, archive)
    seconds = time.perf_counter() - started
    megabytes = _most_memory()
    kind = "sqlite" if database.is_sqlite else "postgresql"
    size = archive.stat().st_size / 1e6
    print(
        f"{step:<8} {kind:<10} {done.n_ratings:>11,} ratings {seconds:7.1f} s {megabytes:6.0f} MB of memory, "
        f"archive {size:.0f} MB, digest {done.digest[:8]}",
        flush=True,
    )
    database.dispose()


def _most_memory() -> float:
    """Of this process: `getrusage` begins with what the parent had."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def _measure(step: str, folder: Path, url: str, archive: Path) -> None:
    subprocess.run([sys.executable, "-m", "benchmarks.backup_speed", step, str(folder), url, str(archive)], check=True)


def _fresh_database(server: str, name: str) -> str:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def _all(name: str, folder: Path, server: str) -> None:
    n_users, n_items = map(int, (DATA_FOLDER / name / "shape.txt").read_text().split())
    part = load(DATA_FOLDER / name, "all")
    sqlite = folder / f"{name}-sqlite"
    filled(_settings(sqlite, ""), part, n_users, n_items).dispose()
    url = _fresh_database(server, f"palate_{name.lower()}")
    filled(_settings(folder / f"{name}-postgresql", url), part, n_users, n_items).dispose()
    del part
    archives = {"": folder / f"{name}-sqlite.zip", url: folder / f"{name}-postgresql.zip"}
    _measure("backup", sqlite, "", archives[""])
    _measure("backup", folder / f"{name}-postgresql", url, archives[url])
    target = folder / "target"
    for archive in archives.values():
        for to in ("", _fresh_database(server, "palate_target")):
            shutil.rmtree(target, ignore_errors=True)
            _measure("restore", target, to, archive)
    shutil.rmtree(target, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1] in ("backup", "restore"):
        _step(sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=("S1", "S20"))
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/backups"))
    parser.add_argument("--postgres", help="URL of a server; one of the development environment else")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with postgres(given.postgres, given.folder / "postgres") as server:
        for each in given.names:
            _all(each, given.folder, server)
