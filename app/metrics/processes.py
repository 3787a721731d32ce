"""Figures of several API processes on one host: each has a place in a folder that all of them can read.

prometheus_client keeps every value in a mapped file where PROMETHEUS_MULTIPROC_DIR is set, and adds up the files of all
processes when it is asked. Left to itself it names the files by process number, so each process that dies leaves files
behind for good. Here they are named by place: whoever follows a dead process takes its place and counts on in its
files. A place is held by a lock, which ends with the process however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

from prometheus_client import REGISTRY, CollectorRegistry, Metric, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_ATTEMPTS, _BETWEEN_ATTEMPTS = 5, 0.01


@contextmanager
def folder_of_figures() -> Iterator[None]:
    """A folder for the processes that are started meanwhile, unless the environment names one already."""
    if FOLDER in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="palate-metrics-") as folder:
        os.environ[FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[FOLDER]


def share_figures() -> None:
    """Keep the values of this process in the folder, if there is one."""
    if FOLDER in os.environ:
        _folder().mkdir(parents=True, exist_ok=True)
        values.ValueClass = values.MultiProcessValue(lambda: _place_of(os.getpid()))


def leave_figures_to_forks() -> None:
    """For a process that has made the instruments and only forks: it has no figures, each fork takes its own place."""
    mark_process_dead(_place_of(os.getpid()))


def all_figures() -> CollectorRegistry:
    """The figures of all processes, those that have ended too; of the gauges only those of the living."""
    if FOLDER not in os.environ:
        return REGISTRY
    for lock in _folder().glob("*.lock"):
        _remove_gauges_of_the_dead(lock)
    registry = CollectorRegistry()
    _Figures(registry)
    return registry


class _Figures(MultiProcessCollector):
    """Reads again where a process has just opened a file and not yet made it long enough for a value."""

    def collect(self) -> Iterable[Metric]:
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(struct.error):
                return self._found()
            time.sleep(_BETWEEN_ATTEMPTS)
        return self._found()

    def _found(self) -> Iterable[Metric]:
        found: Iterable[Metric] = super().collect()
        return found


def _folder() -> Path:
    return Path(os.environ[FOLDER])


_held: list[IO[str]] = []
"""Locks of this process, open for as long as it lives."""


@cache
def _place_of(_pid: int) -> int:
    """The lowest place that no process holds, and a new one after a fork."""
    for place in itertools.count():
        lock = (_folder() / f"{place}.lock").open("a")
        if _take(lock):
            _held.append(lock)
            return place
        lock.close()
    raise AssertionError("there is always another place")


def _remove_gauges_of_the_dead(path: Path) -> None:
    with path.open() as lock:  # nobody takes the place meanwhile
        if _take(lock):
            mark_process_dead(int(path.stem))


def _take(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
