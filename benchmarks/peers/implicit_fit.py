"""implicit's ALS in the peers' environment: {"folder", "k", "n_threads", "iterations": [1, 4]} -> seconds of each fit.

Time for reference only: it learns that somebody rated, not what the rating was.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from implicit.als import AlternatingLeastSquares  # type: ignore[import-not-found]
from scipy.sparse import csr_matrix


def main() -> None:
    request = json.load(sys.stdin)
    folder = Path(request["folder"])
    users, items, values = (np.load(folder / f"train_{column}.npy") for column in ("users", "items", "values"))
    matrix = csr_matrix((values, (users, items)))
    seconds = []
    for iterations in request["iterations"]:
        model = AlternatingLeastSquares(
            factors=request["k"], iterations=iterations, num_threads=request["n_threads"], random_state=0
        )
        started = time.perf_counter()
        model.fit(matrix, show_progress=False)
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": seconds, "n_ratings": int(matrix.nnz)}))


if __name__ == "__main__":
    main()
