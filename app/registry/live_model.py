"""The version that this process serves, and the thread that follows the active one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from app.db.engine import Database
from app.periodic_thread import PeriodicThread
from app.registry import artifacts, versions
from app.registry.artifacts import DamagedVersion, LoadedVersion
from app.registry.versions import VersionRow
from app.settings import Settings

log = logging.getLogger(__name__)

RETRY_DAMAGED = 10.0
"""Seconds until a damaged version is tried again: checksums of a large one take a while."""

MAX_FALLBACKS = 20
"""Number of newest versions that are tried in place of a damaged one."""

NO_VERSION = "no version can be served: popular items and mean ratings are"


class LiveModel:
    """`current` is the version to serve; None before the first publish, or if every version is damaged.

    Read it once per request: it may change at any time. Readers take no lock: a version is complete before one
    assignment makes it current, and the old one lives for as long as a request holds it. `before_swap` is called with
    a version before it becomes current. `problem` says why the active version is not the one that is served, if so.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self.current: LoadedVersion | None = None
        self.problem: str | None = None
        self.before_swap: Callable[[LoadedVersion], object] = lambda _loaded: None
        self._database = database
        self._versions_dir = settings.versions_dir
        self._damaged: tuple[int | None, float] = (None, 0.0)  # version, and when it was tried
        self._refreshing = threading.Lock()
        self._thread = PeriodicThread(self.refresh, settings.versions.poll_interval.total_seconds(), "live-model")

    def start(self) -> None:
        """Load the active version now, and follow it from then on."""
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        """Stop following; the current version stays."""
        self._thread.stop()

    def refresh(self) -> None:
        """Make the active version the current one; a problem is stored and logged once, never raised."""
        with self._refreshing:
            try:
                self._load_active()
            except DamagedVersion as damaged:
                self._set_problem(str(damaged))
            except SQLAlchemyError as error:
                self._set_problem(f"the active version cannot be read: {type(error).__name__}")
            except Exception as error:  # whatever it is, the next call tries again
                problem = f"the active version cannot be loaded: {type(error).__name__}: {error}"
                if problem != self.problem:
                    log.exception("the active version cannot be loaded")
                self._set_problem(problem)

    def _load_active(self) -> None:
        with self._database.read() as connection:
            number = versions.active_number(connection)
            if number is None or (self.current and self.current.version == number):
                self._set_problem(None)
                return
            damaged, tried_at = self._damaged
            if number == damaged and time.monotonic() - tried_at < RETRY_DAMAGED:
                return
            row = versions.find_active(connection)
        if row is None:  # the pointer was read twice and may have changed in between
            return
        self._damaged = (row.version, time.monotonic())
        try:
            self._serve(row)
        except DamagedVersion:
            if self.current is None:
                self._serve_newest_intact(row.version)
            raise
        self._damaged = (None, 0.0)
        self._set_problem(None)

    def _serve(self, row: VersionRow) -> None:
        loaded = artifacts.load(self._versions_dir / row.folder, row.version, row.manifest)
        self.before_swap(loaded)
        self.current = loaded  # the swap: one assignment
        log.info("now serving model version %d", row.version)

    def _serve_newest_intact(self, damaged_version: int) -> None:
        """An older model is better than none."""
        with self._database.read() as connection:
            rows = versions.history(connection, limit=MAX_FALLBACKS)
        for row in rows:
            if row.version == damaged_version:
                continue
            try:
                self._serve(row)
            except DamagedVersion as damaged:
                log.warning("%s", damaged)
            else:
                return

    def _set_problem(self, problem: str | None) -> None:
        if problem and problem != self.problem:
            instead = f"version {self.current.version} is served" if self.current else NO_VERSION
            log.error("%s; %s", problem, instead)
        self.problem = problem
