"""Features of users and items from which items were rated and how often, whatever the values of the ratings.

With B the 0/1 matrix of who rated what, n_u and c_i the numbers of ratings of users and items, the features are the
leading singular vectors of

    N[u, i] = B[u, i] (n_u + d)^-1/2 (c_i + d)^-1/2

and log(n_u + d), log(c_i + d), with d = DAMPING: few ratings are weak evidence. What users choose to rate is implicit
feedback on what they like (Marlin & Zemel 2009; Koren 2008, SVD++).
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import float32, int64, njit, void

from app.engine.arrays import Counts, Matrix32, Matrix64, Offsets, Rows, Vector32, Vector64
from app.engine.linalg import Parts, cross_products, product
from app.engine.numba_types import READ_MATRIX, READ_OFFSETS, READ_ROWS, READ_VECTOR
from app.engine.parallel import run_all

DAMPING = 5.0
"""Ratings that a prior weighs against a user's or an item's own number of ratings."""
_SPARE = 16
"""Oversampling of the subspace iteration (Halko, Martinsson & Tropp 2011, section 4.2)."""
_PASSES = 6


@dataclass(frozen=True, slots=True)
class Sparse:
    """Who rated what, by the rows of one side: row a's others are others[starts[a]:starts[a + 1]]."""

    starts: Offsets
    others: Rows
    counts: Counts
    parts: Parts

    @property
    def weights(self) -> Vector32:
        """(count + d)^-1/2"""
        weights: Vector32 = (1.0 / np.sqrt(self.counts + DAMPING)).astype(np.float32)
        return weights


@dataclass(frozen=True, slots=True)
class Features:
    """Standardised features of one side, [n, d]: (raw - centre) / spread; spread is infinite where all are equal."""

    values: Matrix32
    centre: Vector64
    spread: Vector64


def who_rated_what(
    pool: Executor, users: Sparse, items: Sparse, n_directions: int, seed: int
) -> tuple[Matrix32, Matrix32, Matrix32]:
    """Raw features of users and items, and the projection from rated items to the directions of a user.

    A user's raw directions are (n_u + d)^-1/2 times the sum of the projection's rows over the items rated; log counts
    come last. By subspace iteration on N'N, without a dense matrix: each pass is two sweeps over the ratings.
    """
    n_items = items.counts.size
    width = min(n_directions + _SPARE, n_items, max(users.counts.size, 1))
    basis = np.random.default_rng([seed, 7]).standard_normal((n_items, width), np.float32)
    basis = _orthonormal(pool, items.parts, basis)
    for _ in range(_PASSES):
        image = _apply(pool, users, items.weights, basis)
        basis = _orthonormal(pool, items.parts, _apply(pool, items, users.weights, image))
    image = _apply(pool, users, items.weights, basis)
    squares, turn = np.linalg.eigh(cross_products(pool, users.parts, image, image))
    turn = turn[:, ::-1][:, :n_directions]
    turn *= np.where(turn[np.abs(turn).argmax(axis=0), np.arange(turn.shape[1])] < 0, -1.0, 1.0)
    scales = np.sqrt(np.maximum(squares[::-1][:n_directions], 0.0))
    directions = product(pool, items.parts, basis, turn)
    of_users = product(pool, users.parts, image, turn)
    return (
        _with_log_counts(of_users, users.counts),
        _with_log_counts(directions * scales.astype(np.float32), items.counts),
        directions * items.weights[:, None],
    )


def standardised(raw: Matrix32, is_rated: npt.NDArray[np.bool_]) -> Features:
    """Mean 0 and variance 1 over the rows with ratings; a constant feature becomes 0."""
    known = raw[is_rated].astype(np.float64)
    centre, spread = known.mean(axis=0), known.std(axis=0)
    spread = np.where(spread > 1e-6 * np.maximum(np.abs(centre), 1e-12), spread, np.inf)
    return Features(((raw - centre) / spread).astype(np.float32), centre, spread)


def _with_log_counts(directions: Matrix32, counts: Counts) -> Matrix32:
    return np.column_stack([directions, np.log(counts + DAMPING)]).astype(np.float32)


def _apply(pool: Executor, side: Sparse, other_weights: Vector32, other_vectors: Matrix32) -> Matrix32:
    sums = np.empty((side.counts.size, other_vectors.shape[1]), np.float32)
    weights = side.weights
    run_all(
        pool,
        lambda first, last: sum_rated(
            first, last, side.starts, side.others, weights, other_weights, other_vectors, sums
        ),
        side.parts,
    )
    return sums


def _orthonormal(pool: Executor, parts: Parts, columns: Matrix32) -> Matrix32:
    """An orthonormal basis of the columns' span; directions of rounding error are zeros."""
    for _ in range(2):  # twice: the first Gram matrix cannot resolve small directions
        values, vectors = np.linalg.eigh(cross_products(pool, parts, columns, columns))
        is_there = values > 1e-10 * max(float(values[-1]), 1e-300)
        back: Matrix64 = np.where(is_there, vectors / np.sqrt(np.where(is_there, values, 1.0)), 0.0)
        columns = product(pool, parts, columns, back)
    return columns


@njit(
    void(int64, int64, READ_OFFSETS, READ_ROWS, READ_VECTOR, READ_VECTOR, READ_MATRIX, float32[:, ::1]),
    nogil=True, cache=True, fastmath={"contract"},
)  # fmt: skip
def sum_rated(
    first: int,
    last: int,
    starts: Offsets,
    others: Rows,
    weights: Vector32,
    other_weights: Vector32,
    other_vectors: Matrix32,
    sums: Matrix32,
) -> None:
    """sums[a] = weights[a] * sum over a's ratings of other_weights[t] other_vectors[t], in the rows first..last."""
    n_columns = other_vectors.shape[1]
    for row in range(first, last):
        sums[row, :] = float32(0)
        for t in range(starts[row], starts[row + 1]):
            other = others[t]
            weight = other_weights[other]
            for g in range(n_columns):
                sums[row, g] += weight * other_vectors[other, g]
        for g in range(n_columns):
            sums[row, g] *= weights[row]
