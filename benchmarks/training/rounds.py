"""Alternating rounds on a machine that may not be ours alone: who else was running, and medians of the quiet rounds."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

QUIET_BELOW = 0.25
"""Cores' worth of other processes up to which a round counts as quiet."""


@dataclass(slots=True)
class Rounds:
    """One number per contender and round, and how many cores other processes used in each round."""

    numbers: dict[str, list[float]] = field(default_factory=dict)
    others: list[float] = field(default_factory=list)

    @property
    def quiet(self) -> list[int]:
        """The quiet rounds, or all of them when there are none."""
        return [at for at, load in enumerate(self.others) if load < QUIET_BELOW] or list(range(len(self.others)))

    @property
    def was_quiet(self) -> bool:
        return any(load < QUIET_BELOW for load in self.others)

    def median(self, name: str) -> float:
        return statistics.median(self.numbers[name][at] for at in self.quiet)

    def ratio(self, above: str, below: str) -> float:
        """Median of the rounds' own ratios: what disturbs a round disturbs both."""
        return statistics.median(self.numbers[above][at] / self.numbers[below][at] for at in self.quiet)

    def note(self) -> str:
        """How many rounds were quiet, or that none was."""
        n_quiet = sum(load < QUIET_BELOW for load in self.others)
        return f"{n_quiet}/{len(self.others)} quiet" if n_quiet else f"contended ({statistics.median(self.others):.1f})"


def alternate(contenders: Mapping[str, Callable[[], float]], n_rounds: int) -> Rounds:
    """Every contender once per round, in turns; the order is reversed every other round."""
    rounds = Rounds({name: [] for name in contenders})
    for number in range(n_rounds):
        before = _Clock.now()
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            rounds.numbers[name].append(contenders[name]())
        rounds.others.append(_Clock.now().others_since(before))
    return rounds


@dataclass(frozen=True, slots=True)
class _Clock:
    """Processor time that the machine and that this process with its children spent so far."""

    wall: float
    machine: float
    ours: float

    @classmethod
    def now(cls) -> _Clock:
        times = os.times()
        ours = times.user + times.system + times.children_user + times.children_system
        return cls(time.perf_counter(), _machine_seconds(), ours)

    def others_since(self, before: _Clock) -> float:
        """Cores that neither this process nor its finished children kept busy, on average."""
        spent = (self.machine - before.machine) - (self.ours - before.ours)
        return max(0.0, spent / max(self.wall - before.wall, 1e-9))


def _machine_seconds() -> float:
    """Busy time of all cores since boot; 0 where the kernel does not tell, and then every round counts as quiet."""
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, first[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
