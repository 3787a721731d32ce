"""LIBMF, run in the peers' environment: one JSON request on stdin, one JSON line on stdout.

    {"task": "time", "folder": ..., "k": 64, "n_threads": 2, "iterations": [2, 8], "eta": 0.1, "lambda": 0.05}
    {"task": "curve", ..., "iterations": 40}     hold-out RMSE after every iteration
    {"task": "fit", ..., "iterations": 12}       wall time of one whole fit, and its test RMSE

The binding's own entry point is called with a float32 array that lies ready, so that no conversion is timed. What is
timed is what LIBMF needs: its copies of the ratings, shuffling, the grid, the iterations, and putting the model back in
order.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

with contextlib.redirect_stdout(io.StringIO()):
    from libmf import mf as libmf  # type: ignore[import-not-found]


def main() -> None:
    request = json.load(sys.stdin)
    answer = {"time": time_fits, "curve": curve, "fit": fit}[request["task"]](request)
    print(json.dumps(answer), flush=True)


def time_fits(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one fit for each number of iterations: their differences are the pure iterations."""
    ratings = triples(request["folder"], "train")
    seconds = []
    for n_iterations in request["iterations"]:
        _, spent = train(ratings, options(request, n_iterations))
        seconds.append(spent)
    return {"seconds": seconds, "n_ratings": len(ratings)}


def fit(request: dict[str, Any]) -> dict[str, Any]:
    """A whole fit, timed, and the RMSE of its model on the test part."""
    ratings = triples(request["folder"], "train")
    model, seconds = train(ratings, options(request, request["iterations"]))
    return {"seconds": seconds, "rmse": rmse(model, triples(request["folder"], "test"))}


def curve(request: dict[str, Any]) -> dict[str, Any]:
    """Starts a fit that prints its hold-out RMSE after every iteration: LIBMF's own lines, read by the caller."""
    ratings, holdout = triples(request["folder"], "tune"), triples(request["folder"], "holdout")
    entry = libmf.mf.train_valid_interface
    entry.restype = ctypes.POINTER(libmf.MFModel)
    entry(
        *(ctypes.c_int(len(ratings)), ctypes.c_int(len(holdout)), pointer(ratings), pointer(holdout)),
        ctypes.byref(options(request, request["iterations"], quiet=False)),
    )
    return {"done": True}


def options(request: dict[str, Any], n_iterations: int, *, quiet: bool = True) -> Any:
    names = {
        "k": request["k"],
        "nr_threads": request["n_threads"],
        "nr_bins": request.get("n_bins", 26),
        "nr_iters": n_iterations,
        "eta": request.get("eta", 0.1),
        "lambda_p2": request.get("lambda", 0.05),
        "lambda_q2": request.get("lambda", 0.05),
        "lambda_p1": 0.0,
        "lambda_q1": 0.0,
        "quiet": quiet,
    }
    return libmf.MF(**names)._options


def train(ratings: np.ndarray, parameters: Any) -> tuple[Any, float]:
    entry = libmf.mf.fit_interface
    entry.restype = ctypes.POINTER(libmf.MFModel)
    entry.argtypes = (ctypes.c_int, libmf.c_float_p, libmf.options_ptr)
    started = time.perf_counter()
    model = entry(len(ratings), pointer(ratings), ctypes.byref(parameters))
    return model.contents, time.perf_counter() - started


def rmse(model: Any, ratings: np.ndarray) -> float:
    """Of LIBMF's prediction rule: p.q, and the mean where a user or an item was never seen."""
    p = np.ctypeslib.as_array(model.P, (model.m, model.k))
    q = np.ctypeslib.as_array(model.Q, (model.n, model.k))
    total = 0.0
    for start in range(0, len(ratings), 1 << 17):
        users, items, values = ratings[start : start + (1 << 17)].T
        is_inside = (users < model.m) & (items < model.n)
        predicted = np.full(values.size, model.b, np.float32)
        u, i = users[is_inside].astype(np.int64), items[is_inside].astype(np.int64)
        predicted[is_inside] = np.einsum("nk,nk->n", p[u], q[i])
        predicted[np.isnan(predicted)] = model.b
        total += float(((values - predicted).astype(np.float64) ** 2).sum())
    return float(np.sqrt(total / len(ratings)))


def triples(folder: str, part: str) -> np.ndarray:
    """[n, 3] float32, as the binding takes them: exact for row numbers below 2^24."""
    columns = [np.load(Path(folder) / f"{part}_{column}.npy") for column in ("users", "items", "values")]
    return np.ascontiguousarray(np.stack(columns, axis=1, dtype=np.float32, casting="unsafe"))


def pointer(array: np.ndarray) -> Any:
    return array.ctypes.data_as(libmf.c_float_p)


if __name__ == "__main__":
    main()
