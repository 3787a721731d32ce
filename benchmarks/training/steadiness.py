"""What must not change: the bits of the model. What may change little: the speed beside a busy neighbour."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.datasets import DataSet
from benchmarks.training.our_side import ratings_of, timed_fit
from benchmarks.training.rounds import alternate
from benchmarks.training.throughput import our_rate

N_EPOCHS = 3
START_UP = 0.1
"""Seconds after which an interpreter is certainly running."""


def same_bits(data: DataSet, cores: Sequence[int]) -> dict[str, Any]:
    """Digests of fits with 1, 2 and 4 threads, and with 2 while another process takes one of their two cores."""
    ratings = ratings_of(data, data.train)
    all_cores = sorted(os.sched_getaffinity(0))

    def digest(n_threads: int, on: Sequence[int]) -> str:
        return timed_fit(ratings, n_threads, on, n_epochs=N_EPOCHS).model.digest()

    digests = {f"{n} threads": digest(n, all_cores) for n in (1, 2, 4)}
    with busy_neighbour(cores[-1]):
        digests["2 threads, busy neighbour"] = digest(2, cores)
    return {"data": data.name, "digests": digests, "same": len(set(digests.values())) == 1}


def beside_a_neighbour(data: DataSet, cores: Sequence[int], n_rounds: int) -> dict[str, Any]:
    """Throughput on two cores with one of them taken by another process, as a share of the quiet throughput."""
    ratings = ratings_of(data, data.train)
    measure = functools.partial(our_rate, ratings, 64, len(cores), cores)

    def disturbed() -> float:
        with busy_neighbour(cores[-1]):
            return measure()

    rounds = alternate({"quiet": measure, "disturbed": disturbed}, n_rounds)
    rates = {name: rounds.median(name) / 1e6 for name in ("quiet", "disturbed")}
    return {"data": data.name, **rates, "share": rounds.ratio("disturbed", "quiet"), "bar": 0.45, "note": rounds.note()}


def peak_memory(data: DataSet, *, with_holdout: bool, n_threads: int = 2) -> dict[str, Any]:
    """Peak resident bytes of a fresh process that fits the train and test parts together."""
    command = [sys.executable, "-m", "benchmarks.training.fit_once", data.name, str(n_threads)]
    command += ["--holdout"] if with_holdout else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    gibibytes = float(done.stdout) / 2**30
    return {"data": data.name, "holdout": with_holdout, "gibibytes": gibibytes, "bar": 2.0}


@contextlib.contextmanager
def busy_neighbour(core: int) -> Iterator[None]:
    """Another process that never sleeps, on this core."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(process.pid, [core])
        time.sleep(START_UP)
        yield
    finally:
        process.kill()
        process.wait()
