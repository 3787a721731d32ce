"""`palate doctor`: checks what a service needs and says what to do about each problem."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

import migrations
from app.db.engine import open_database
from app.db.revisions import revision
from app.db.tables import utc_now
from app.ratings.store import count_changes_since, totals
from app.registry import artifacts, versions
from app.registry.artifacts import DamagedVersion
from app.settings import Settings, UnusableSettings, read_settings
from app.training import queue
from app.training.models import TrainingRun

Verdict = Literal["ok", "warning", "problem"]

SLOW_ANSWER = 0.5  # seconds
MAX_WAIT = timedelta(seconds=30)
MAX_CLOCK_DIFFERENCE = timedelta(seconds=2)
MIN_FREE_BYTES = 1_000_000_000
"""Bytes that should be free beyond what the next versions take."""
_ALL = 1_000_000


class Finding(NamedTuple):
    """The result of one check, and what to do about it."""

    subject: str
    verdict: Verdict
    message: str
    advice: str = ""


def _finding(subject: str, is_ok: bool, message: str, advice: str, verdict: Verdict = "problem") -> Finding:
    """A finding with `advice` and this verdict, unless it is ok."""
    return Finding(subject, "ok", message) if is_ok else Finding(subject, verdict, message, advice)


def run_checks() -> Iterator[Finding]:
    """Yields each finding as it is made. A check that cannot run says why, and the others go on."""
    try:
        settings = read_settings()
    except UnusableSettings as unusable:
        yield Finding("settings", "problem", str(unusable), "correct these variables (docs/settings.md)")
        return
    yield Finding("settings", "ok", f"the data folder is {settings.data_dir.absolute()}")
    yield _writable("data folder", settings.data_dir, "give the service's user write access, or set PALATE_DATA_DIR")
    yield from _kernels(settings.kernels_dir)
    if settings.data_dir.is_dir():
        yield _disk(settings)
    if (file := settings.sqlite_file) and not file.exists():
        advice = "start `palate serve`, or `palate import` ratings, or correct PALATE_DATA_DIR"
        yield Finding("database", "problem", f"there is none at {file}", advice)
    else:
        yield from _database_checks(settings)


def _database_checks(settings: Settings) -> Iterator[Finding]:
    database = open_database(settings)
    try:
        with database.read() as connection:
            yield _reachability(connection)
            schema = migrations.current(connection)
            yield _schema(schema)
            if migrations.works_with(schema):
                now = database.now(connection)
                yield _clocks(now)
                yield _ratings(connection)
                yield from _versions(settings, connection)
                yield _trainer(settings, connection, now)
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        yield Finding("database", "problem", reason, "start the server, or correct PALATE_DATABASE_URL")
    finally:
        database.dispose()


def _reachability(connection: Connection) -> Finding:
    started = time.perf_counter()
    connection.execute(select(1))
    seconds = time.perf_counter() - started
    kind, version = connection.dialect.name, ".".join(map(str, connection.dialect.server_version_info or ()))
    message = f"{kind} {version} answers in {seconds * 1000:.0f} ms"
    return _finding(
        "database", seconds <= SLOW_ANSWER, message, "check the load of the server and the network", "warning"
    )


def _schema(schema: str | None) -> Finding:
    if schema == migrations.head():
        return Finding("migrations", "ok", f"the schema is {schema}, the newest")
    if schema is None or migrations.knows(schema):
        message = f"the schema is {schema or 'empty'}, this release needs {migrations.head()}"
        return Finding("migrations", "problem", message, "run `palate migrate`")
    message = f"the schema {schema} is that of a newer release, which this one works with"
    return Finding("migrations", "warning", message, "finish the upgrade, or stay with the newer release")


def _kernels(folder: Path) -> Iterator[Finding]:
    yield _writable("kernel cache", folder, "set PALATE_KERNEL_CACHE_DIR, or every start compiles again")
    if folder.is_dir() and not any(folder.glob("*.py")):
        advice = "run `palate precompile`, or the first training waits for the compiler"
        yield Finding("kernel cache", "warning", f"no compiled kernel in {folder}", advice)


def _writable(subject: str, folder: Path, advice: str) -> Finding:
    if not folder.exists():
        return Finding(subject, "warning", f"{folder} does not exist yet", "the first start creates it")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return Finding(subject, "problem", f"{folder} cannot be written: {error.strerror}", advice)
    return Finding(subject, "ok", f"{folder} can be written")


def _disk(settings: Settings) -> Finding:
    free = shutil.disk_usage(settings.data_dir).free
    folders = artifacts.folders(settings.versions_dir)
    largest = max((sum(file.stat().st_size for file in folder.iterdir()) for folder in folders), default=0)
    message = f"{free / 1e9:.1f} GB free for the data, the largest version takes {largest / 1e9:.2f} GB"
    advice = "free some space, or keep fewer versions (PALATE_VERSIONS_KEEP): a full disk stops training and, with "
    return _finding("disk", free >= MIN_FREE_BYTES + 2 * largest, message, advice + "SQLite, every write")


def _clocks(database_time: datetime) -> Finding:
    difference = abs(database_time - utc_now())
    message = f"this machine and the database differ by {difference.total_seconds():.2f} s"
    advice = "synchronize both with NTP: times of ratings and expiry of keys depend on them"
    return _finding("clocks", difference <= MAX_CLOCK_DIFFERENCE, message, advice)


def _ratings(connection: Connection) -> Finding:
    counts, newest = totals(connection), revision(connection, "ratings")
    counted = f"{counts.n_ratings:,} ratings of {counts.n_users:,} users and {counts.n_items:,} items"
    return Finding("ratings", "ok", f"{counted}, revision {newest}")


def _versions(settings: Settings, connection: Connection) -> Iterator[Finding]:
    rows = versions.history(connection, limit=_ALL)
    for row in rows:
        try:
            artifacts.verify(settings.versions_dir / row.folder, row.manifest)
        except DamagedVersion as damaged:
            if row.is_active:
                advice = "activate another version, train, or restore a backup; all processes need the same data folder"
                yield Finding("versions", "problem", f"the active version {row.version}: {damaged}", advice)
            else:
                advice = f"run `palate models delete {row.version}`"
                yield Finding("versions", "warning", f"version {row.version}: {damaged}", advice)
    active = next((row for row in rows if row.is_active), None)
    if active is None:
        message = "none is published yet: popular items and means are served"
        yield Finding("versions", "warning", message, "run `palate train`, or wait for the trainer")
    else:
        n_changes = count_changes_since(connection, active.trained_through)
        message = f"version {active.version} is active, {len(rows)} are kept, {n_changes:,} ratings have changed since"
        yield Finding("versions", "ok", message)


def _trainer(settings: Settings, connection: Connection, now: datetime) -> Finding:
    start = (
        "start `palate worker`"
        if settings.trainer == "external"
        else "start `palate serve`, which keeps a trainer alive"
    )
    advice = f"{start}, and read the end of its log"
    if run := queue.running(connection):
        overdue = (now - run.lease_expires_at).total_seconds()
        if overdue > 0:
            message = f"run {run.id} is held by {run.worker}, {overdue:.0f} s past its lease"
            return Finding("trainer", "problem", message, advice)
        return Finding("trainer", "ok", f"{run.worker} works on run {run.id}")
    oldest = select(func.min(TrainingRun.created_at)).where(TrainingRun.status == "queued")
    waiting_since = connection.execute(oldest).scalar_one()
    if waiting_since and now - waiting_since > MAX_WAIT:
        message = f"a run has been waiting since {waiting_since:%Y-%m-%d %H:%M:%S} and no trainer takes it"
        return Finding("trainer", "problem", message, advice)
    if settings.trainer == "embedded" and not _is_locked(settings.data_dir / "trainer.lock"):
        message = "none runs on this machine with this data folder"
        return Finding("trainer", "warning", message, "it starts with `palate serve`")
    return Finding("trainer", "ok", "no run is waiting")


def _is_locked(path: Path) -> bool:
    """Whether an embedded trainer holds the lock (decision 0012)."""
    if not path.exists():
        return False
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
