"""Ratings per second: Palate beside its peers, and beside its own kernel when memory costs nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.engine.data.ratings import Ratings
from benchmarks.datasets import DataSet
from benchmarks.peers.environment import call, versions
from benchmarks.training.our_side import (
    block_bytes,
    first_level_rate,
    ratings_of,
    ratings_per_run,
    timed_fit,
    tiny_ratings,
)
from benchmarks.training.rounds import Rounds, alternate

FACTORS = (32, 64, 128)
RATINGS_OF_A_MEASUREMENT = 60_000_000
"""Enough epochs are timed to see this many ratings, at least four."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One comparison: medians over rounds, in million ratings per second, and the median of the rounds' ratios."""

    data: str
    peer: str
    n_factors: int
    n_threads: int
    theirs: float
    ours: float
    ratio: float
    bar: float | None
    note: str

    def row(self) -> dict[str, object]:
        return asdict(self)


def against_libmf(data: DataSet, n_factors: int, n_threads: int, cores: Sequence[int], n_rounds: int) -> Rate:
    """Pure epochs on both sides. LIBMF has no clock of its own: a long fit less a short one leaves its iterations."""
    n_epochs = epochs_to_time(len(data.train))
    request = {"task": "time", "folder": str(data.folder), "k": n_factors, "n_threads": n_threads}
    request |= {"iterations": [2, 2 + n_epochs]}
    rounds = alternate(
        {
            "theirs": lambda: difference_rate(call("libmf_fit", request, cores=cores), n_epochs),
            "ours": functools.partial(our_rate, ratings_of(data, data.train), n_factors, n_threads, cores),
        },
        n_rounds,
    )
    bar = 5.0 if n_factors == 64 or n_threads == 1 else 4.5
    return _rate(data.name, "LIBMF", n_factors, n_threads, rounds, bar)


def against_one_thread_peers(data: DataSet, core: int, n_rounds: int) -> list[Rate]:
    """funk-svd and Surprise at 64 factors; those that are installed."""
    folder = {"folder": str(data.folder), "k": 64}
    rivals: dict[str, tuple[Callable[[], float], float]] = {
        "funk-svd": (lambda: epochs_rate(call("funk_svd_fit", {**folder, "n_epochs": 5}, cores=[core])), 10.0),
        "scikit-surprise": (
            lambda: difference_rate(call("surprise_fit", {**folder, "epochs": [2, 8]}, cores=[core]), 6),
            45.0,
        ),
    }
    ours = functools.partial(our_rate, ratings_of(data, data.train), 64, 1, [core])
    rates = []
    for name, (theirs, bar) in rivals.items():
        if name in versions():
            rounds = alternate({"theirs": theirs, "ours": ours}, n_rounds)
            rates.append(_rate(data.name, name, 64, 1, rounds, bar))
    return rates


def implicit_seconds(data: DataSet, cores: Sequence[int]) -> float | None:
    """Seconds of one ALS iteration at 64 factors on these cores, for reference."""
    if "implicit" not in versions():
        return None
    request = {"folder": str(data.folder), "k": 64, "n_threads": len(cores), "iterations": [1, 4]}
    short, long = call("implicit_fit", request, cores=cores)["seconds"]
    return float(long - short) / 3


def against_first_level_cache(data: DataSet, n_factors: int, core: int, n_rounds: int) -> Rate:
    """The share of our own kernel's rate that is left when vectors no longer lie in the first-level cache."""
    ratings = ratings_of(data, data.train)
    per_run = ratings_per_run(ratings, n_factors)
    rounds = alternate(
        {
            "theirs": functools.partial(first_level_rate, n_factors, per_run, core),
            "ours": functools.partial(our_rate, ratings, n_factors, 1, [core]),
        },
        n_rounds,
    )
    tiny = tiny_ratings(n_factors, per_run)
    name = f"own kernel, {block_bytes(tiny, n_factors) // 1024} KiB of vectors"
    return _rate(data.name, name, n_factors, 1, rounds, 0.75)


def our_rate(ratings: Ratings, n_factors: int, n_threads: int, cores: Sequence[int], **settings: Any) -> float:
    """Ratings per second of one fit's epochs, the first left out."""
    n_epochs = 1 + epochs_to_time(len(ratings))
    return timed_fit(ratings, n_threads, cores, n_factors=n_factors, n_epochs=n_epochs, **settings).rate


def epochs_to_time(n_ratings: int) -> int:
    return max(4, -(-RATINGS_OF_A_MEASUREMENT // n_ratings)) if n_ratings > 500_000 else 40


def difference_rate(answer: dict[str, Any], n_epochs: int) -> float:
    """Ratings per second of the epochs that the second fit did and the first did not."""
    short, long = answer["seconds"]
    return float(answer["n_ratings"] * n_epochs / max(long - short, 1e-9))


def epochs_rate(answer: dict[str, Any]) -> float:
    """Ratings per second of all epochs but the first."""
    seconds: list[float] = answer["seconds"][1:]
    return float(answer["n_ratings"] * len(seconds)) / sum(seconds)


def _rate(data: str, peer: str, n_factors: int, n_threads: int, rounds: Rounds, bar: float | None) -> Rate:
    return Rate(
        *(data, peer, n_factors, n_threads, rounds.median("theirs") / 1e6, rounds.median("ours") / 1e6),
        *(rounds.ratio("ours", "theirs"), bar, rounds.note()),
    )


def growth(sets: Sequence[DataSet], cores: Sequence[int], n_rounds: int) -> dict[str, object]:
    """Seconds per epoch at 64 factors, and how they grow from the smallest data set to the largest."""
    by_size = sorted(sets, key=lambda data: len(data.train))
    views = {data.name: ratings_of(data, data.train) for data in by_size}
    rounds = alternate(
        {name: functools.partial(_epoch_seconds, view, cores) for name, view in views.items()},
        n_rounds,
    )
    first, last = by_size[0], by_size[-1]
    return {
        "seconds": {name: rounds.median(name) for name in views},
        "from": first.name,
        "to": last.name,
        "growth": rounds.ratio(last.name, first.name),
        "times the ratings": len(last.train) / len(first.train),
        "bar": 25.0,
        "note": rounds.note(),
    }


def _epoch_seconds(ratings: Ratings, cores: Sequence[int]) -> float:
    return len(ratings) / our_rate(ratings, 64, len(cores), cores)
