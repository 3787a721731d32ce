"""Metrics of several API processes on one host, in a folder that all of them can read.

If PROMETHEUS_MULTIPROC_DIR is set, prometheus_client keeps every value in a mapped file and a scrape adds up the files
of all processes. By default it names the files by process number, so each dead process leaves files behind for good.
Here they are named by slot: a process that follows a dead one takes its slot and continues in its files. A slot is held
by a file lock, which ends with the process however that ends.
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
def shared_folder() -> Iterator[None]:
    """A temporary folder for the processes started in this context, unless the environment names one."""
    if FOLDER in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="palate-metrics-") as folder:
        os.environ[FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[FOLDER]


def use_shared_folder() -> None:
    """Keep the values of this process in the shared folder, if there is one."""
    if FOLDER in os.environ:
        _folder().mkdir(parents=True, exist_ok=True)
        values.ValueClass = values.MultiProcessValue(lambda: _slot_of(os.getpid()))


def release_slot_to_forks() -> None:
    """For a process that has created the instruments and only forks: each fork takes a slot of its own."""
    mark_process_dead(_slot_of(os.getpid()))


def merged_registry() -> CollectorRegistry:
    """Counters of all processes, including those that have ended; gauges of the living ones only."""
    if FOLDER not in os.environ:
        return REGISTRY
    for lock in _folder().glob("*.lock"):
        _remove_gauges_of_the_dead(lock)
    registry = CollectorRegistry()
    _Collector(registry)
    return registry


class _Collector(MultiProcessCollector):
    """Reads again if a process has just created a file that is still too short for a value."""

    def collect(self) -> Iterable[Metric]:
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(struct.error):
                return list(super().collect())
            time.sleep(_BETWEEN_ATTEMPTS)
        return list(super().collect())


def _folder() -> Path:
    return Path(os.environ[FOLDER])


_locks: list[IO[str]] = []
"""Locks of this process, open for as long as it lives."""


@cache
def _slot_of(_pid: int) -> int:
    """The lowest slot that no process holds; a fork gets a new one."""
    for slot in itertools.count():
        lock = (_folder() / f"{slot}.lock").open("a")
        if _lock(lock):
            _locks.append(lock)
            return slot
        lock.close()
    raise AssertionError("there is always another slot")


def _remove_gauges_of_the_dead(path: Path) -> None:
    with path.open() as lock:  # so nobody takes the slot meanwhile
        if _lock(lock):
            mark_process_dead(int(path.stem))


def _lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
