"""FAISS's IndexFlatIP and implicit's topk in the peers' environment, one line in, one line of JSON out.

python top_n.py FOLDER N N_QUERIES     answers "answers" (FAISS's rows) and "times" (median microseconds)
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss  # type: ignore[import-not-found]
import numpy as np
from implicit.cpu.topk import topk  # type: ignore[import-not-found]


def main() -> None:
    folder, n, n_queries = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    faiss.omp_set_num_threads(1)
    items, users = np.load(folder / "items.npy"), np.load(folder / "users.npy")
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    alone = [np.ascontiguousarray(users[u : u + 1]) for u in range(n_queries)]
    for line in sys.stdin:
        if line.strip() == "answers":
            answer: object = [index.search(user, n)[1][0].tolist() for user in alone]
        else:
            answer = {
                "faiss": _median([partial(index.search, user, n) for user in alone]),
                "implicit": _median([partial(topk, items, user, n, num_threads=1) for user in alone]),
                "faiss batch, each": _median([lambda: index.search(users, n)]) / len(users),
                "implicit batch, each": _median([lambda: topk(items, users, n, num_threads=1)]) / len(users),
            }
        print(json.dumps(answer), flush=True)


def _median(questions: list[Callable[[], object]]) -> float:
    times = []
    for question in questions:
        started = time.perf_counter()
        question()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


if __name__ == "__main__":
    main()
