"""Speed of exact top-N, compared with FAISS's flat index and implicit's top-k.

    .venv/bin/python -m benchmarks.top_n [--items 27000 1000000] [--rounds 9] [--kinds skewed trained even]

One thread each, median microseconds over queries; the three take turns in each round. `skewed` items have the
spectrum and the norms of a model of 20 million ratings (8 axes hold 75 %, 16 hold 81 % of the squared lengths);
`trained` ones are drawn around the items of a model trained on S20; `even` ones have no structure. Peers get the bias
as one more factor. They have no filters: our filtered searches are compared with their unfiltered ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine.data.ratings import Ratings
from app.engine.data.row_sets import RowSet
from app.engine.factors import FactorModel, UserPrior
from app.engine.hyperparameters import Hyperparameters
from app.engine.retrieval.index import TopNIndex
from app.engine.retrieval.retriever import Query
from app.engine.sgd.local import LocalTrainer
from benchmarks.datasets import DATA_FOLDER, data_set
from benchmarks.peers.environment import SCRIPTS, python

K, N, N_QUERIES, N_BATCH, N_EXCLUDED = 64, 10, 40, 64, 200
CATEGORY_SHARE = 0.2
Matrix = npt.NDArray[np.float32]
HOME = DATA_FOLDER / "top_n"


def skewed(n_items: int, rng: np.random.Generator) -> tuple[Matrix, Matrix, Matrix]:
    """Item vectors, item biases, user vectors; norms log-normal around .85 with p1 / p99 of .39 / 2.05."""
    spectrum = np.full(K, 0.19 / (K - 16))
    spectrum[:8], spectrum[8:16] = 0.75 * 0.8 ** np.arange(8) / (0.8 ** np.arange(8)).sum(), 0.06 / 8
    axes = np.linalg.qr(rng.standard_normal((K, K)))[0]
    directions = (rng.standard_normal((n_items, K)) * np.sqrt(spectrum)) @ axes
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    norms = 0.85 * rng.lognormal(0.0, 0.36, (n_items, 1))
    users = (rng.standard_normal((N_BATCH, K)) * np.sqrt(spectrum)) @ axes
    return _single(directions * norms), _single(0.4 * rng.standard_normal(n_items)), _single(1.3 * users)


def trained(n_items: int, rng: np.random.Generator) -> tuple[Matrix, Matrix, Matrix]:
    """Items of the model of S20, with noise of a third of their own deviation where more are wanted."""
    model = _model_of_s20()
    q, bias = model["item_factors"], model["item_bias"]
    users = model["user_factors"][rng.choice(model["user_factors"].shape[0], N_BATCH, replace=False)]
    if n_items <= bias.size:
        return q[:n_items], bias[:n_items], users
    drawn = rng.integers(0, bias.size, n_items)
    noise = rng.standard_normal((n_items, K)) @ np.linalg.cholesky(np.cov(q.T) / 9 + 1e-12 * np.eye(K)).T
    return _single(q[drawn] + noise), _single(bias[drawn] + 0.1 * rng.standard_normal(n_items)), users


def even(n_items: int, rng: np.random.Generator) -> tuple[Matrix, Matrix, Matrix]:
    """Independent normal numbers: the worst case for every bound."""
    q, bias = 0.125 * rng.standard_normal((n_items, K)), 0.4 * rng.standard_normal(n_items)
    return _single(q), _single(bias), _single(rng.standard_normal((N_BATCH, K)) * 0.125)


KINDS = {"skewed": skewed, "trained": trained, "even": even}


def _single(array: npt.NDArray[np.float64]) -> Matrix:
    return np.ascontiguousarray(array, np.float32)


def _model_of_s20() -> dict[str, npt.NDArray[Any]]:
    path = HOME / "S20_64.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        data = data_set("S20")
        part = data.train
        ratings = Ratings.of(part.users, part.items, part.values, n_users=data.n_users, n_items=data.n_items)
        fit = LocalTrainer(2).fit(ratings, Hyperparameters(n_factors=K, n_epochs=10))
        arrays: dict[str, Any] = fit.model.arrays()
        np.savez(path, **arrays)
    with np.load(path) as arrays:
        return dict(arrays)


def model_of(q: Matrix, bias: Matrix, users: Matrix) -> FactorModel:
    covariance = np.diag(np.concatenate([[0.1], np.square(users, dtype=np.float64).mean(axis=0) + 1e-9]))
    return FactorModel(
        mean=3.5,
        item_bias=bias,
        item_factors=q,
        user_bias=np.zeros(0, np.float32),
        user_factors=np.zeros((0, K), np.float32),
        user_prior=UserPrior(np.zeros(K + 1), covariance),
        noise_variance=0.5,
        item_counts=np.ones(bias.size, np.int32),
        item_means=np.full(bias.size, 3.5, np.float32),
        user_counts=np.zeros(0, np.int32),
    )


class Peers:
    """FAISS and implicit in a process of their own that answers one line with one."""

    def __init__(self, folder: Path, core: int) -> None:
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [str(python()), str(SCRIPTS / "top_n.py"), str(folder), str(N), str(N_QUERIES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one_thread, "PYTHONWARNINGS": "ignore"},
            preexec_fn=lambda: os.sched_setaffinity(0, [core]),
        )

    def ask(self, what: str) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()


def median_micros(questions: list[Callable[[], object]]) -> float:
    times = []
    for question in questions:
        started = time.perf_counter()
        question()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


def measure(kind: str, n_items: int, n_rounds: int, core: int) -> None:
    rng = np.random.default_rng(7)
    q, bias, users = KINDS[kind](n_items, rng)
    folder = HOME / f"{kind}_{n_items}"
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "items.npy", np.hstack([q, bias[:, None]]))
    np.save(folder / "users.npy", np.hstack([users, np.ones((N_BATCH, 1), np.float32)]))
    started = time.perf_counter()
    index = TopNIndex.build(model_of(q, bias, users))
    assert index
    built = time.perf_counter() - started
    among = RowSet.where(rng.random(n_items) < CATEGORY_SHARE)
    excluded = [rng.choice(n_items, N_EXCLUDED, replace=False).astype(np.int32) for _ in range(N_QUERIES)]
    few = users[:N_QUERIES]
    sides: dict[str, list[Callable[[], object]]] = {
        "top 10": [partial(index.search, [Query(u, 3.5)], N) for u in few],
        "200 excluded, category": [
            partial(index.search, [Query(u, 3.5, e)], N, among=among) for u, e in zip(few, excluded, strict=True)
        ],
        "200 excluded": [partial(index.search, [Query(u, 3.5, e)], N) for u, e in zip(few, excluded, strict=True)],
        "similar": [partial(index.search, [Query(q[row])], N, cosine=True) for row in range(N_QUERIES)],
        "batch of 64, each": [lambda: index.search([Query(u, 3.5) for u in users], N)],
    }
    peers = Peers(folder, core)
    agree = _agrees(index, users, peers.ask("answers"))
    taken: dict[str, list[float]] = {}
    for _ in range(n_rounds):
        for name, micros in peers.ask("times").items():
            taken.setdefault(name, []).append(micros)
        for name, questions in sides.items():
            each = N_BATCH if name.startswith("batch") else 1
            taken.setdefault(name, []).append(median_micros(questions) / each)
    peers.close()
    print(f"\n{kind}, {n_items:,} items, first stage {index.n_lead} of {K} factors, built in {built:.1f} s, {agree}")
    _print(taken)


def _agrees(index: TopNIndex, users: Matrix, answers: list[list[int]]) -> str:
    """FAISS sums in another order, so that scores a rounding apart may change places."""
    ours = [set(index.search([Query(u, 3.5)], N)[0][0].tolist()) for u in users[:N_QUERIES]]
    same = sum(len(mine & set(theirs)) for mine, theirs in zip(ours, answers, strict=True))
    return f"{same} of {N * N_QUERIES} items as FAISS has them"


def _print(taken: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(values) for name, values in taken.items()}
    for name, micros in medians.items():
        ratios = ""
        if not name.startswith(("faiss", "implicit")):
            suffix = " batch, each" if name.startswith("batch") else ""
            ratios = "   ".join(f"1/{medians[peer + suffix] / micros:.1f} of {peer}" for peer in ("faiss", "implicit"))
        print(f"  {name:<26} {micros:10.1f} us   {ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[27_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    os.sched_setaffinity(0, [arguments.core])
    for kind in arguments.kinds:
        for n_items in arguments.items:
            measure(kind, n_items, arguments.rounds, arguments.core)


if __name__ == "__main__":
    main()
