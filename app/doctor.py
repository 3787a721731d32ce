"""`palate doctor`: looks at everything that a service needs, and says what to do where something is wrong."""

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

SLOW_ANSWER = 0.5
WAITING_TOO_LONG = timedelta(seconds=30)
CLOCKS_APART = timedelta(seconds=2)
LEAST_FREE = 1_000_000_000
"""Bytes that should be free beside what the next version takes."""
_ALL = 1_000_000


class Finding(NamedTuple):
    """What was looked at, how it is, and what to do about it."""

    subject: str
    verdict: Verdict
    told: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class _Patient:
    """What the checks of a reachable, current database look at."""

    settings: Settings
    database: Database
    connection: Connection


def examine() -> Iterator[Finding]:
    """Every finding, as it is made; each check that cannot be done says why, and the others go on."""
    try:
        settings = read_settings()
    except UnusableSettings as unusable:
        yield Finding("settings", "problem", str(unusable), "correct these variables (docs/settings.md)")
        return
    yield Finding("settings", "ok", f"the folder of the data is {settings.data_dir.absolute()}")
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
            yield _reached(connection)
            schema = migrations.current(connection)
            yield from _schema(schema)
            if not migrations.works_with(schema):
                return
            patient = _Patient(settings, database, connection)
            for check in _CHECKS:
                yield from check(patient)
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        yield Finding("database", "problem", reason, "start the server, or correct PALATE_DATABASE_URL")
    finally:
        database.dispose()


def _reached(connection: Connection) -> Finding:
    started = time.perf_counter()
    connection.execute(select(1))
    seconds = time.perf_counter() - started
    kind, version = connection.dialect.name, ".".join(map(str, connection.dialect.server_version_info or ()))
    told = f"{kind} {version} answers in {seconds * 1000:.0f} ms"
    if seconds > SLOW_ANSWER:
        return Finding("database", "warning", told, "look at the load of the server and at the network")
    return Finding("database", "ok", told)


def _schema(schema: str | None) -> Iterator[Finding]:
    if schema == migrations.head():
        yield Finding("migrations", "ok", f"the schema is {schema}, the newest")
    elif schema is None or migrations.knows(schema):
        told = f"the schema is {schema or 'empty'}, this release needs {migrations.head()}"
        yield Finding("migrations", "problem", told, "run `palate migrate`")
    else:
        told = f"the schema {schema} is that of a newer release, with which this one works"
        yield Finding("migrations", "warning", told, "finish the upgrade, or stay with the newer release")


def _data_folder(settings: Settings) -> Iterator[Finding]:
    yield from _writable("data folder", settings.data_dir, "let the service's user write it, or set PALATE_DATA_DIR")


def _kernels(settings: Settings) -> Iterator[Finding]:
    folder = settings.kernels_dir
    yield from _writable("kernel cache", folder, "set PALATE_KERNEL_CACHE_DIR: else every start compiles anew")
    if folder.is_dir() and not any(folder.glob("*.py")):
        advice = "run `palate precompile`, or have the first training wait for the compiler"
        yield Finding("kernel cache", "warning", f"no compiled kernel in {folder}", advice)


def _writable(subject: str, folder: Path, advice: str) -> Iterator[Finding]:
    if not folder.exists():
        yield Finding(subject, "warning", f"{folder} does not exist yet", "the first start makes it")
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
    told = f"{usage.free / 1e9:.1f} GB free for the data, the largest version takes {largest / 1e9:.2f} GB"
    if usage.free < LEAST_FREE + 2 * largest:
        advice = "make room, or keep fewer versions (PALATE_VERSIONS_KEEP): a full disk stops training and, with "
        yield Finding("disk", "problem", told, advice + "SQLite, every write")
    else:
        yield Finding("disk", "ok", told)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _clocks(patient: _Patient) -> Iterator[Finding]:
    apart = abs(patient.database.now(patient.connection) - utc_now())
    told = f"this machine and the database differ by {apart.total_seconds():.2f} s"
    if apart > CLOCKS_APART:
        yield Finding("clocks", "problem", told, "set both by NTP: times of ratings and expiry of keys depend on them")
    else:
        yield Finding("clocks", "ok", told)


def _counters(patient: _Patient) -> Iterator[Finding]:
    counts, newest = totals(patient.connection), revision(patient.connection, "ratings")
    told = f"{counts.n_ratings:,} ratings of {counts.n_users:,} users and {counts.n_items:,} items, revision {newest}"
    yield Finding("ratings", "ok", told)


def _versions(patient: _Patient) -> Iterator[Finding]:
    rows = versions.history(patient.connection, limit=_ALL)
    for row in rows:
        try:
            artifacts.verify(patient.settings.versions_dir / row.folder, row.manifest)
        except DamagedVersion as damaged:
            if row.is_active:
                advice = "activate another version, train, or restore a backup; all processes need the same data folder"
                yield Finding("versions", "problem", f"the active version {row.version}: {damaged}", advice)
            else:
                advice = f"run `palate models delete {row.version}`"
                yield Finding("versions", "warning", f"version {row.version}: {damaged}", advice)
    active = next((row for row in rows if row.is_active), None)
    if active is None:
        told = "none is published yet: popular items and means answer"
        yield Finding("versions", "warning", told, "run `palate train`, or wait for the trainer")
    else:
        n_changes = count_changes_since(patient.connection, active.trained_through)
        told = f"version {active.version} is active, {len(rows)} are kept, {n_changes:,} ratings have changed since"
        yield Finding("versions", "ok", told)


def _trainer(patient: _Patient) -> Iterator[Finding]:
    now = patient.database.now(patient.connection)
    run = queue.running(patient.connection)
    if run and run.lease_expires_at < now:
        silent = (now - run.lease_expires_at).total_seconds()
        told = f"run {run.id} is held by {run.worker}, silent for {silent:.0f} s beyond its lease"
        yield Finding("trainer", "problem", told, _start_one(patient.settings))
    elif run:
        yield Finding("trainer", "ok", f"{run.worker} works on run {run.id}")
    else:
        yield from _idle_trainer(patient)


def _idle_trainer(patient: _Patient) -> Iterator[Finding]:
    oldest = select(func.min(TrainingRun.created_at)).where(TrainingRun.status == "queued")
    waiting_since = patient.connection.execute(oldest).scalar_one()
    if waiting_since and patient.database.now(patient.connection) - waiting_since > WAITING_TOO_LONG:
        told = f"a run waits since {waiting_since:%Y-%m-%d %H:%M:%S} and nobody takes it"
        yield Finding("trainer", "problem", told, _start_one(patient.settings))
    elif patient.settings.trainer == "embedded" and not _is_locked(patient.settings.data_dir / "trainer.lock"):
        told = "none runs on this machine with this data folder"
        yield Finding("trainer", "warning", told, "it starts with `palate serve`")
    else:
        yield Finding("trainer", "ok", "nothing waits for one")


def _start_one(settings: Settings) -> str:
    if settings.trainer == "external":
        return "start `palate worker`, and look at the end of its log"
    return "start `palate serve`, which keeps a trainer alive, and look at the end of its log"


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


_CHECKS: tuple[Callable[[_Patient], Iterator[Finding]], ...] = (_clocks, _counters, _versions, _trainer)
