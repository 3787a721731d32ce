"""A background thread that calls a function at a fixed interval until it is stopped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class PeriodicThread:
    """Calls `action` every `interval` seconds on a daemon thread, the first time after one interval.

    An exception is logged, and the calls go on. `start` and `stop` belong to one thread; `start` works again after
    `stop`.
    """

    def __init__(self, action: Callable[[], object], interval: float, name: str) -> None:
        self._action = action
        self._interval = interval
        self._name = name
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping.is_set()

    def start(self) -> None:
        self._is_stopping.clear()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def request_stop(self) -> None:
        """End after the current call. For any thread, `action` included; does not wait."""
        self._is_stopping.set()

    def stop(self) -> None:
        """Request the stop, and wait for the current call to return. Does nothing if the thread is not running."""
        self.request_stop()
        if self._thread:
            self._thread.join()
            self._thread = None

    def wait(self, seconds: float) -> bool:
        """Sleep for `seconds`, or until a stop is requested; returns whether it is."""
        return self._is_stopping.wait(seconds)

    def _run(self) -> None:
        while not self.wait(self._interval):
            try:
                self._action()
            except Exception:
                log.exception("thread %r: a call failed; the next one follows in %g s", self._name, self._interval)
