"""`palate doctor`: checks what a service needs and says what to do about each problem."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from sqlalchemy import Connection, func, make_url, select
from sqlalchemy.exc import SQLAlchemyError

import migrations
from app.db.engine import Database, open_database
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


@dataclass(frozen=True, slots=True)
class _Checked:
    """What the checks of a reachable database with a current schema read."""

    settings: Settings
    database: Database
    connection: Connection


def run_checks() -> Iterator[Finding]:
    """Yields each finding as it is made. A check that cannot run says why, and the others go on."""
    try:
        settings = read_settings()
    except UnusableSettings as unusable:
        yield Finding("settings", "problem", str(unusable), "correct these variables (docs/settings.md)")
        return
    yield Finding("settings", "ok", f"the data folder is {settings.data_dir.absolute()}")
    for folder_check in (_data_folder, _kernels, _disk):
        yield from folder_check(settings)
    yield from _database_checks(settings)


def _database_checks(settings: Settings) -> Iterator[Finding]:
    url = make_url(settings.sqlalchemy_url)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        advice = "start `palate serve`, or `palate import` ratings, or correct PALATE_DATA_DIR"
        yield Finding("database", "problem", f"there is none at {url.database}", advice)
        return
    database = open_database(settings)
    try:
        with database.read() as connection:
            yield _reachability(connection)
            schema = migrations.current(connection)
            yield from _schema(schema)
            if not migrations.works_with(schema):
                return
            checked = _Checked(settings, database, connection)
            for check in _CHECKS:
                yield from check(checked)
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
    if seconds > SLOW_ANSWER:
        return Finding("database", "warning", message, "check the load of the server and the network")
    return Finding("database", "ok", message)


def _schema(schema: str | None) -> Iterator[Finding]:
    if schema == migrations.head():
        yield Finding("migrations", "ok", f"the schema is {schema}, the newest")
    elif schema is None or migrations.knows(schema):
        message = f"the schema is {schema or 'empty'}, this release needs {migrations.head()}"
        yield Finding("migrations", "problem", message, "run `palate migrate`")
    else:
        message = f"the schema {schema} is that of a newer release, which this one works with"
        yield Finding("migrations", "warning", message, "finish the upgrade, or stay with the newer release")


def _data_folder(settings: Settings) -> Iterator[Finding]:
    yield from _writable(
        "data folder", settings.data_dir, "give the service's user write access, or set PALATE_DATA_DIR"
    )


def _kernels(settings: Settings) -> Iterator[Finding]:
    folder = settings.kernels_dir
    yield from _writable("kernel cache", folder, "set PALATE_KERNEL_CACHE_DIR, or every start compiles again")
    if folder.is_dir() and not any(folder.glob("*.py")):
        advice = "run `palate precompile`, or the first training waits for the compiler"
        yield Finding("kernel cache", "warning", f"no compiled kernel in {folder}", advice)


def _writable(subject: str, folder: Path, advice: str) -> Iterator[Finding]:
    if not folder.exists():
        yield Finding(subject, "warning", f"{folder} does not exist yet", "the first start creates it")
        return
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Finding(subject, "problem", f"{folder} cannot be written: {error.strerror}", advice)
    else:
        yield Finding(subject, "ok", f"{folder} can be written")


def _disk(settings: Settings) -> Iterator[Finding]:
    if not settings.data_dir.is_dir():
        return
    usage = shutil.disk_usage(settings.data_dir)
    largest = max((_size(folder) for folder in artifacts.folders(settings.versions_dir)), default=0)
    message = f"{usage.free / 1e9:.1f} GB free for the data, the largest version takes {largest / 1e9:.2f} GB"
    if usage.free < MIN_FREE_BYTES + 2 * largest:
        advice = "free some space, or keep fewer versions (PALATE_VERSIONS_KEEP): a full disk stops training and, with "
        yield Finding("disk", "problem", message, advice + "SQLite, every write")
    else:
        yield Finding("disk", "ok", message)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _clocks(checked: _Checked) -> Iterator[Finding]:
    difference = abs(checked.database.now(checked.connection) - utc_now())
    message = f"this machine and the database differ by {difference.total_seconds():.2f} s"
    if difference > MAX_CLOCK_DIFFERENCE:
        yield Finding(
            "clocks",
            "problem",
            message,
            "synchronize both with NTP: times of ratings and expiry of keys depend on them",
        )
    else:
        yield Finding("clocks", "ok", message)


def _counters(checked: _Checked) -> Iterator[Finding]:
    counts, newest = totals(checked.connection), revision(checked.connection, "ratings")
    message = (
        f"{counts.n_ratings:,} ratings of {counts.n_users:,} users and {counts.n_items:,} items, revision {newest}"
    )
    yield Finding("ratings", "ok", message)


def _versions(checked: _Checked) -> Iterator[Finding]:
    rows = versions.history(checked.connection, limit=_ALL)
    for row in rows:
        try:
            artifacts.verify(checked.settings.versions_dir / row.folder, row.manifest)
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
        n_changes = count_changes_since(checked.connection, active.trained_through)
        message = f"version {active.version} is active, {len(rows)} are kept, {n_changes:,} ratings have changed since"
        yield Finding("versions", "ok", message)


def _trainer(checked: _Checked) -> Iterator[Finding]:
    now = checked.database.now(checked.connection)
    run = queue.running(checked.connection)
    if run and run.lease_expires_at < now:
        overdue = (now - run.lease_expires_at).total_seconds()
        message = f"run {run.id} is held by {run.worker}, {overdue:.0f} s past its lease"
        yield Finding("trainer", "problem", message, _start_one(checked.settings))
    elif run:
        yield Finding("trainer", "ok", f"{run.worker} works on run {run.id}")
    else:
        yield from _idle_trainer(checked)


def _idle_trainer(checked: _Checked) -> Iterator[Finding]:
    oldest = select(func.min(TrainingRun.created_at)).where(TrainingRun.status == "queued")
    waiting_since = checked.connection.execute(oldest).scalar_one()
    if waiting_since and checked.database.now(checked.connection) - waiting_since > MAX_WAIT:
        message = f"a run has been waiting since {waiting_since:%Y-%m-%d %H:%M:%S} and no trainer takes it"
        yield Finding("trainer", "problem", message, _start_one(checked.settings))
    elif checked.settings.trainer == "embedded" and not _is_locked(checked.settings.data_dir / "trainer.lock"):
        message = "none runs on this machine with this data folder"
        yield Finding("trainer", "warning", message, "it starts with `palate serve`")
    else:
        yield Finding("trainer", "ok", "no run is waiting")


def _start_one(settings: Settings) -> str:
    if settings.trainer == "external":
        return "start `palate worker`, and read the end of its log"
    return "start `palate serve`, which keeps a trainer alive, and read the end of its log"


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


_CHECKS: tuple[Callable[[_Checked], Iterator[Finding]], ...] = (_clocks, _counters, _versions, _trainer)
