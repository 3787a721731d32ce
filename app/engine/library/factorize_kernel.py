"""The loop of textbook SGD; the slopes are given to it as compiled functions."""

from numba import njit

from app.engine.arrays import Matrix64, Vector64
from app.engine.library.coerce import Places


@njit(nogil=True, cache=True)
def step_through(
    order: Places,
    rows: Places,
    columns: Places,
    values: Vector64,
    P: Matrix64,
    Q: Matrix64,
    learning_rate: float,
    regularization: float,
    error_slope: object,
    penalty_slope: object,
) -> None:
    """One step per entry: p -= learning_rate * (slope q + regularization * penalty_slope(p)), and q likewise.

    order, rows, columns, values [n]   P [n_rows, k]   Q [k, n_columns], both overwritten
    """
    k = P.shape[1]
    for at in order:
        row, column = rows[at], columns[at]
        dot = 0.0
        for f in range(k):
            dot += P[row, f] * Q[f, column]
        slope = error_slope(values[at], dot)  # type: ignore[operator]
        for f in range(k):
            p, q = P[row, f], Q[f, column]
            P[row, f] = p - learning_rate * (slope * q + regularization * penalty_slope(p))  # type: ignore[operator]
            Q[f, column] = q - learning_rate * (slope * p + regularization * penalty_slope(q))  # type: ignore[operator]
