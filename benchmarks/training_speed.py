"""Training speed of Palate and other libraries: one command, alternating rounds, medians and ratios.

    make bench                  all; the first run creates the data sets and the peers' environment
    make bench QUICK=1          1 million ratings and MovieLens latest-small, some minutes
    .venv/bin/python -m benchmarks.training_speed --sections rates quality --data S1 --rounds 7

Prints tables; writes training_speed.json and time_to_error_<data>.png to benchmarks/results. docs/lab-notes.md
explains the columns and goals.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.engine.hyperparameters import Hyperparameters
from benchmarks.datasets import NAMES, DataSet, data_set
from benchmarks.peers.environment import LIBMF_FLAGS, RESULTS, SCRIPTS, python, versions
from benchmarks.training import steadiness, tables, throughput, time_to_error
from benchmarks.training.our_side import timed_fit, tiny_ratings

LARGE = 5_000_000
"""Ratings from which a round takes minutes: fewer of them are made."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, where, and how often."""

    data: tuple[DataSet, ...]
    sections: tuple[str, ...]
    n_rounds: int
    cores: tuple[int, ...]

    def rounds_for(self, data: DataSet) -> int:
        return max(3, self.n_rounds * 3 // 5) if len(data.train) > LARGE else self.n_rounds

    @property
    def of_speed(self) -> list[DataSet]:
        """Those large enough for a rate to mean anything."""
        return [data for data in self.data if len(data.train) > 500_000]


def main() -> None:
    plan = _plan()
    report: dict[str, Any] = {"machine": machine(), "peers": {**versions(), "libmf built with": LIBMF_FLAGS}}
    tables.print_facts(report)
    _compile(plan)
    for section in plan.sections:
        started = time.perf_counter()
        report[section] = SECTIONS[section](plan)
        tables.print_section(section, report[section])
        print(f"({section}: {time.perf_counter() - started:.0f} s)\n", flush=True)
        _write(report)


def _plan() -> Plan:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="S1 and ml only, few rounds")
    parser.add_argument("--data", nargs="*", choices=NAMES, default=None)
    parser.add_argument("--sections", nargs="*", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--cores", type=int, nargs=2, default=None, help="the two cores to measure on (the last two)")
    arguments = parser.parse_args()
    names = arguments.data or (("ml", "S1") if arguments.quick else NAMES)
    return Plan(
        tuple(map(data_set, names)),
        tuple(arguments.sections),
        arguments.rounds or (3 if arguments.quick else 5),
        tuple(arguments.cores or sorted(os.sched_getaffinity(0))[-2:]),
    )


def machine() -> dict[str, Any]:
    """What a figure has to be read with."""
    cpu = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    flags = next((line for line in _lines("/proc/cpuinfo") if line.startswith("flags")), "")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "processor": cpu[0] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "AVX-512": "avx512f" in flags,
        "memory GiB": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "Python": platform.python_version(),
        "load before": os.getloadavg()[0],
        "commit": commit.stdout.strip(),
        "defaults": Hyperparameters().to_dict(),
    }


def _compile(plan: Plan) -> None:
    """Every kernel once, so that no round waits for a compiler."""
    for n_factors in throughput.FACTORS:
        timed_fit(tiny_ratings(n_factors, per_run=1), 1, plan.cores, n_factors=n_factors, n_epochs=1)


def _rates(plan: Plan) -> list[dict[str, Any]]:
    rates = []
    for data in plan.of_speed:
        for n_factors in throughput.FACTORS:
            for n_threads in (1, 2):
                cores = plan.cores[-n_threads:]
                rate = throughput.against_libmf(data, n_factors, n_threads, cores, plan.rounds_for(data))
                rates.append(rate.row())
    return rates


def _one_thread(plan: Plan) -> list[dict[str, Any]]:
    data = min(plan.of_speed, key=lambda each: len(each.train))
    return [rate.row() for rate in throughput.against_one_thread_peers(data, plan.cores[-1], plan.n_rounds)]


def _first_level_cache(plan: Plan) -> list[dict[str, Any]]:
    core = plan.cores[-1]
    return [
        throughput.against_first_level_cache(data, n_factors, core, plan.rounds_for(data)).row()
        for data in plan.of_speed
        for n_factors in throughput.FACTORS
    ]


def _quality(plan: Plan) -> list[dict[str, Any]]:
    """Rows of the race, and a plot for each data set."""
    rows: list[dict[str, Any]] = []
    for data in plan.data:
        raced = time_to_error.race(data, plan.cores, plan.rounds_for(data))
        rows += [row.row() for row in raced]
        curves = time_to_error.error_curves(data, plan.cores, raced)
        (RESULTS / f"time_to_error_{data.name}.json").write_text(json.dumps(curves))
        _plot(data.name)
    return rows


def _plot(name: str) -> None:
    """Drawn in the peers' environment: matplotlib is no dependency of the project."""
    source, target = RESULTS / f"time_to_error_{name}.json", RESULTS / f"time_to_error_{name}.png"
    subprocess.run([python(), SCRIPTS / "plot.py", name, source, target], check=True)


def _steady(plan: Plan) -> dict[str, Any]:
    bits = [steadiness.same_bits(data, plan.cores) for data in plan.of_speed]
    crowded = [steadiness.beside_a_neighbour(data, plan.cores, plan.rounds_for(data)) for data in plan.of_speed]
    return {"bits": bits, "neighbour": crowded}


def _size(plan: Plan) -> dict[str, Any]:
    """Seconds per epoch of each data set in alternating rounds, and peak memory of the largest."""
    largest = max(plan.data, key=lambda data: len(data.train))
    memory = [steadiness.peak_memory(largest, with_holdout=holdout) for holdout in (False, True)]
    return {"epochs": throughput.growth(plan.of_speed, plan.cores, 3), "memory": memory}


def _reference(plan: Plan) -> dict[str, Any]:
    return {data.name: throughput.implicit_seconds(data, plan.cores) for data in plan.of_speed}


SECTIONS: dict[str, Callable[[Plan], Any]] = {
    "rates": _rates,
    "one_thread": _one_thread,
    "first_level_cache": _first_level_cache,
    "quality": _quality,
    "steady": _steady,
    "size": _size,
    "reference": _reference,
}


def _write(report: dict[str, Any]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / "training_speed.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**before, **report}, indent=1))


def _lines(path: str) -> Sequence[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


if __name__ == "__main__":
    main()
