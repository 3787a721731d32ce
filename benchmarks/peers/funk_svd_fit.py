"""funk-svd's epoch kernel in the peers' environment.

{"folder", "k", "n_epochs"} -> seconds of each epoch, and the test RMSE after it. Its own compiled functions are called
with the arrays that its `fit` would hand them, so that neither pandas nor the compiler is timed. Ratings are shuffled
once, as its README does.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from funk_svd.fast_methods import (  # type: ignore[import-not-found]
    _compute_val_metrics,
    _initialization,
    _run_epoch,
)


def main() -> None:
    request = json.load(sys.stdin)
    folder, k = Path(request["folder"]), request["k"]
    train, test = (_matrix(folder, part) for part in ("train", "test"))
    n_users, n_items = (int(max(train[:, side].max(), test[:, side].max())) + 1 for side in (0, 1))
    state = _initialization(n_users, n_items, k)
    np.random.default_rng(0).shuffle(train)
    mean, settings = train[:, 2].mean(), (k, request.get("lr", 0.01), request.get("reg", 0.03))
    _run_epoch(train[:10], *(array.copy() for array in state), mean, *settings)
    seconds, errors = [], []
    for _ in range(request["n_epochs"]):
        started = time.perf_counter()
        state = _run_epoch(train, *state, mean, *settings)
        seconds.append(time.perf_counter() - started)
        errors.append(float(_compute_val_metrics(test, *state, mean, k)[1]))
    print(json.dumps({"seconds": seconds, "rmse": errors, "n_ratings": len(train)}))


def _matrix(folder: Path, part: str) -> np.ndarray:
    """[n, 3] float64: user, item, value, the one shape that funk-svd knows."""
    columns = [np.load(folder / f"{part}_{column}.npy") for column in ("users", "items", "values")]
    return np.stack(columns, axis=1).astype(np.float64)


if __name__ == "__main__":
    main()
