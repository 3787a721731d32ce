"""Textbook matrix factorisation D ~ P Q of a matrix with gaps, for any declared loss.

No biases, no centring, no service; the tutorial is docs/tutorial-factorize.md. `library.fit` has the service's model.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from app.engine.arrays import InvalidArray, Matrix64, Positions, Vector64
from app.engine.library.coerce import entries_of
from app.engine.library.slopes import LossFunctions, compiled_slopes, loss_functions, resolve_loss
from app.engine.losses.base import Loss
from app.engine.sgd.trainer import Diverged

Method = Literal["sgd", "batch"]


class Factorization(NamedTuple):
    """P (n, k) and Q (k, m) after the last epoch, and the objective after each epoch."""

    P: Matrix64
    Q: Matrix64
    losses: Vector64


class _Entries(NamedTuple):
    rows: Positions
    columns: Positions
    values: Vector64


def factorize(
    D: Any,
    P: npt.ArrayLike,
    Q: npt.ArrayLike,
    *,
    loss: str | Loss = "squared",
    penalty: str = "l2",
    n_epochs: int,
    learning_rate: float,
    regularization: float,
    method: Method = "sgd",
    seed: int = 0,
) -> Factorization:
    """Factors that minimize, over the known entries (i, j) of D, starting from P (n, k) and Q (k, m),

        sum_ij [ error(d_ij, p_i.q_j) + regularization * sum_f (penalty(P_if) + penalty(Q_fj)) ]

    so the penalty of a row is paid once per known entry in it. The squared error is e^2 / 2 and L2 is theta^2 / 2: a
    step is p += learning_rate * (e q - regularization * p). Tutorials that start from e^2 + beta/2 theta^2 step by
    alpha * (2 e q - beta p), which is learning_rate = 2 alpha and regularization = beta / 2.

    batch: a step along the whole gradient per epoch. sgd: a step per known entry, in an order drawn from the seed for
    each epoch; p and q are both read before either is written. All in float64. D is a masked array, an array with NaN,
    or a SciPy sparse matrix; no argument is changed. Raises InvalidArray, InvalidLoss, and Diverged when the
    objective is no longer a finite number.
    """
    rows, columns, values, shape = entries_of(D)
    entries = _Entries(rows, columns, values)
    factors = _checked(P, Q, shape, values.size)
    chosen = resolve_loss(loss, penalty)
    functions = loss_functions(chosen)
    _refuse_out_of_range(n_epochs=n_epochs, learning_rate=learning_rate, regularization=regularization)
    losses = np.empty(n_epochs)
    steps = {"batch": _batch, "sgd": _sgd}
    if method not in steps:
        raise ValueError(f"method must be sgd or batch, not {method!r}")
    for epoch in range(n_epochs):
        with np.errstate(over="ignore", invalid="ignore"):
            steps[method](entries, *factors, chosen, learning_rate, regularization, [seed, epoch])
            losses[epoch] = _objective(entries, *factors, functions, regularization)
        if not np.isfinite(losses[epoch]):
            raise Diverged(epoch=epoch + 1, learning_rate=learning_rate, reason="the objective is not a finite number")
    return Factorization(*factors, losses)


def _checked(P: npt.ArrayLike, Q: npt.ArrayLike, shape: tuple[int, int], n_known: int) -> tuple[Matrix64, Matrix64]:
    """Copies, in C order."""
    first, second = np.array(P, np.float64, order="C"), np.array(Q, np.float64, order="C")
    for name, factors in (("P", first), ("Q", second)):
        if factors.ndim != 2 or not np.isfinite(factors).all():
            raise InvalidArray(name, "must be a matrix of finite numbers")
    if first.shape[0] != shape[0] or second.shape[1] != shape[1] or first.shape[1] != second.shape[0]:
        expected = f"P ({shape[0]}, k) and Q (k, {shape[1]})"
        raise InvalidArray("P and Q", f"must be {expected} for D {shape}, not {first.shape} and {second.shape}")
    if not n_known:
        raise InvalidArray("D", "has no known entry")
    return first, second


def _refuse_out_of_range(*, n_epochs: int, learning_rate: float, regularization: float) -> None:
    if n_epochs < 1:
        raise ValueError(f"n_epochs must be at least 1, not {n_epochs!r}")
    if not 0 < learning_rate < np.inf:
        raise ValueError(f"learning_rate must be a number above 0, not {learning_rate!r}")
    if not 0 <= regularization < np.inf:
        raise ValueError(f"regularization must be a number of at least 0, not {regularization!r}")


def _predicted(entries: _Entries, P: Matrix64, Q: Matrix64) -> Vector64:
    return np.einsum("nk,nk->n", P[entries.rows], Q.T[entries.columns])  # type: ignore[no-any-return]


def _objective(entries: _Entries, P: Matrix64, Q: Matrix64, functions: LossFunctions, regularization: float) -> float:
    errors = functions.error(entries.values, _predicted(entries, P, Q)).sum()
    of_rows, of_columns = functions.penalty(P).sum(axis=1), functions.penalty(Q).sum(axis=0)
    penalties = of_rows[entries.rows].sum() + of_columns[entries.columns].sum()
    return float(errors + regularization * penalties)


def _batch(
    entries: _Entries, P: Matrix64, Q: Matrix64, loss: Loss, learning_rate: float, regularization: float, _: list[int]
) -> None:
    """One step along the gradient of the objective."""
    functions = loss_functions(loss)
    rows, columns, values = entries
    slopes = functions.error_slope(values, _predicted(entries, P, Q))[:, None]
    of_rows = regularization * np.bincount(rows, minlength=P.shape[0])[:, None] * functions.penalty_slope(P)
    of_columns = regularization * np.bincount(columns, minlength=Q.shape[1]) * functions.penalty_slope(Q)
    np.add.at(of_rows, rows, slopes * Q.T[columns])
    np.add.at(of_columns.T, columns, slopes * P[rows])
    P -= learning_rate * of_rows
    Q -= learning_rate * of_columns


def _sgd(
    entries: _Entries,
    P: Matrix64,
    Q: Matrix64,
    loss: Loss,
    learning_rate: float,
    regularization: float,
    seeds: list[int],
) -> None:
    """A step for each known entry, in an order of its own for each epoch."""
    order = np.random.default_rng(seeds).permutation(entries.values.size)
    _sgd_epoch(order, (*entries,), P, Q, learning_rate, regularization, *compiled_slopes(loss))


@njit(nogil=True, cache=True)
def _sgd_epoch(
    order: Positions,
    entries: tuple[Positions, Positions, Vector64],
    P: Matrix64,
    Q: Matrix64,
    learning_rate: float,
    regularization: float,
    error_slope: object,
    penalty_slope: object,
) -> None:
    """One step per entry: p -= learning_rate * (slope q + regularization * penalty_slope(p)), and q likewise.

    order, and the columns of entries [n]   P [n_rows, k]   Q [k, n_columns], both overwritten
    Compiled for the slopes that it is called with.
    """
    rows, columns, values = entries
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
