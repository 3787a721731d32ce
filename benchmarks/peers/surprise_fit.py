"""scikit-surprise's SVD in the peers' environment.

{"folder", "k", "epochs": [2, 5]} -> seconds and test RMSE of a fit of each length. Its set-up from arrays is not timed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from surprise import SVD  # type: ignore[import-not-found]
from surprise.trainset import Trainset  # type: ignore[import-not-found]


def main() -> None:
    request = json.load(sys.stdin)
    folder = Path(request["folder"])
    ratings, test = (_columns(folder, part) for part in ("train", "test"))
    trainset = _trainset(ratings)
    seconds, errors = [], []
    for n_epochs in request["epochs"]:
        model = SVD(n_factors=request["k"], n_epochs=n_epochs, random_state=0)
        started = time.perf_counter()
        model.fit(trainset)
        seconds.append(time.perf_counter() - started)
        errors.append(_rmse(model, trainset, test))
    print(json.dumps({"seconds": seconds, "rmse": errors, "n_ratings": trainset.n_ratings}))


def _columns(folder: Path, part: str) -> list[np.ndarray]:
    return [np.load(folder / f"{part}_{column}.npy") for column in ("users", "items", "values")]


def _trainset(ratings: list[np.ndarray]) -> Trainset:
    """What its Dataset would build from text, built from the arrays: row numbers are its inner ids."""
    users, items, values = (column.tolist() for column in ratings)
    of_user: dict[int, list[tuple[int, float]]] = {user: [] for user in range(max(users) + 1)}
    of_item: dict[int, list[tuple[int, float]]] = {item: [] for item in range(max(items) + 1)}
    for user, item, value in zip(users, items, values, strict=True):
        of_user[user].append((item, value))
        of_item[item].append((user, value))
    names = {user: user for user in of_user}, {item: item for item in of_item}
    return Trainset(of_user, of_item, len(of_user), len(of_item), len(values), (0.5, 5.0), *names)


def _rmse(model: SVD, trainset: Trainset, test: list[np.ndarray]) -> float:
    users, items, values = test
    known = (users < trainset.n_users) & (items < trainset.n_items)
    u, i = users[known], items[known]
    predicted = np.full(values.size, trainset.global_mean)
    dots = np.einsum("nk,nk->n", model.pu[u], model.qi[i])
    predicted[known] += model.bu[u] + model.bi[i] + dots
    return float(np.sqrt(np.mean((values - predicted) ** 2)))


if __name__ == "__main__":
    main()
