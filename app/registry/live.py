"""The version that this process answers from, and the thread that keeps it the active one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from app.db.engine import Database
from app.registry import artifacts, versions
from app.registry.artifacts import DamagedVersion, LoadedVersion
from app.registry.versions import VersionRow
from app.settings import Settings

__all__ = ["LiveModel", "LoadedVersion"]

log = logging.getLogger(__name__)

RETRY_DAMAGED = 10.0
"""Seconds until a refused version is looked at again: checksums of a large one take a while."""

MOST_STAND_INS = 20
"""Newest versions that are tried in place of a damaged one."""

NO_VERSION = "no version can answer: popular items and mean ratings do"


class LiveModel:
    """`current` is what answers; take it once per request and use that, for it may change at any moment.

    Readers take no lock: a version is complete before one assignment makes it current, and the old one lives on
    for as long as a request holds it.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self.before_swap: Callable[[LoadedVersion], object] = lambda _loaded: None
        self._database = database
        self._versions_dir = settings.versions_dir
        self._interval = settings.versions.poll_interval.total_seconds()
        self._current: LoadedVersion | None = None
        self._problem: str | None = None
        self._refused: tuple[int, float] | None = None  # version, and when it was looked at
        self._refreshing = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def current(self) -> LoadedVersion | None:
        """What this process answers from; None before the first version is published, or where none is sound."""
        return self._current

    @property
    def problem(self) -> str | None:
        """Why the active version is not the one that answers, if so."""
        return self._problem

    def start(self) -> None:
        """Load the active version now, and follow it from then on."""
        self._stop.clear()
        self.refresh()
        self._thread = threading.Thread(target=self._follow, name="live-model", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following; what is loaded keeps answering."""
        self._stop.set()
        if self._thread:
            self._thread.join()
            self._thread = None

    def refresh(self) -> None:
        """Make the active version the current one; a problem is remembered and logged once, never raised."""
        with self._refreshing:
            try:
                self._load_active()
            except DamagedVersion as damaged:
                self._note(str(damaged))
            except SQLAlchemyError as error:
                self._note(f"the active version cannot be looked up: {type(error).__name__}")
            except Exception as error:  # the edge of the thread: it must go on following
                problem = f"the active version cannot be loaded: {type(error).__name__}: {error}"
                if problem != self._problem:
                    log.exception("the active version cannot be loaded")
                self._note(problem)

    def _follow(self) -> None:
        while not self._stop.wait(self._interval):
            self.refresh()

    def _load_active(self) -> None:
        with self._database.read() as connection:
            number = versions.active_number(connection)
            if number is None or (self._current and self._current.version == number):
                self._note(None)
                return
            if self._was_just_refused(number):
                return
            row = versions.find_active(connection)
        if row is None:  # the pointer is asked for twice and may have gone between
            return
        self._refused = (row.version, time.monotonic())
        try:
            self._answer_from(row)
        except DamagedVersion:
            if self._current is None:
                self._stand_in(row.version)
            raise
        self._refused = None
        self._note(None)

    def _answer_from(self, row: VersionRow) -> None:
        loaded = artifacts.load(self._versions_dir / row.folder, row.version, row.manifest)
        self.before_swap(loaded)
        self._current = loaded  # the swap: one assignment
        log.info("model version %d answers from now on", row.version)

    def _stand_in(self, refused: int) -> None:
        """Answer from the newest version that is sound: better an older opinion than none."""
        with self._database.read() as connection:
            rows = versions.history(connection, limit=MOST_STAND_INS)
        for row in rows:
            if row.version == refused:
                continue
            try:
                self._answer_from(row)
            except DamagedVersion as damaged:
                log.warning("%s", damaged)
            else:
                return

    def _was_just_refused(self, number: int) -> bool:
        if self._refused is None or self._refused[0] != number:
            return False
        return time.monotonic() - self._refused[1] < RETRY_DAMAGED

    def _note(self, problem: str | None) -> None:
        if problem and problem != self._problem:
            instead = f"version {self._current.version} answers" if self._current else NO_VERSION
            log.error("%s; %s", problem, instead)
        self._problem = problem
