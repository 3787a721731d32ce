"""Splits work into parts that depend on the data alone, so that results do not depend on the number of threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

_MOST_PARTS = 16
RATINGS_OF_A_PART = 4096
"""Fewer ratings than this are not worth a task of their own."""
ROWS_OF_A_PART = 256
"""The same for users or items, each of which has many ratings or a long vector."""


def n_parts_of(n: int, least: int = RATINGS_OF_A_PART) -> int:
    """How many parts of nearly equal size, each of at least `least`, n is split into."""
    return max(1, min(_MOST_PARTS, n // least))


def in_parts(
    pool: Executor, kernel: Callable[..., None], n: int, *arguments: object, least: int = RATINGS_OF_A_PART
) -> None:
    """Runs kernel(start, end, part, *arguments) for each part of n on the threads of the pool."""
    m = n_parts_of(n, least)
    run_all(pool, kernel, [(n * part // m, n * (part + 1) // m, part, *arguments) for part in range(m)])


def run_all(pool: Executor, kernel: Callable[..., None], calls: Sequence[tuple[object, ...]]) -> None:
    """Runs a nogil kernel once per tuple of arguments, concurrently; the first error is raised here."""
    for done in [pool.submit(kernel, *call) for call in calls]:
        done.result()


def usable_cores() -> int:
    """Cores that this process may run on, if the system says so; else all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
