"""Truncated singular value decompositions of products P Q' of tall matrices, without forming the product."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from app.engine.arrays import Matrix32, Matrix64, Vector64
from app.engine.linalg import Parts, cross_products, product

_NEGLIGIBLE = 1e-11
"""Share of the largest eigenvalue of P'P below which a direction is rounding error."""


class LowRank(NamedTuple):
    """P Q' ~ left right', with left'left = right'right = diag(spectrum)."""

    left: Matrix32
    right: Matrix32
    spectrum: Vector64


def truncate(
    pool: Executor, left: Matrix32, right: Matrix32, rank: int, left_parts: Parts, right_parts: Parts
) -> LowRank:
    """The best approximation of left right' of this rank (Eckart & Young 1936), from the small Gram matrices.

    With P'P = V e V' and Q'Q = W f W', the singular values of P Q' are those of sqrt(e) V'W sqrt(f). Columns beyond the
    rank of P Q' are zeros.
    """
    to_left, left_back = _square_root(cross_products(pool, left_parts, left, left))
    to_right, right_back = _square_root(cross_products(pool, right_parts, right, right))
    u, spectrum, wt = np.linalg.svd(to_left.T @ to_right)
    n = min(rank, spectrum.size)
    root = np.sqrt(spectrum[:n])
    narrow = np.zeros((2, left.shape[1], rank))
    narrow[0, :, :n] = left_back @ u[:, :n] * root
    narrow[1, :, :n] = right_back @ wt[:n].T * root
    return LowRank(product(pool, left_parts, left, narrow[0]), product(pool, right_parts, right, narrow[1]), spectrum)


def _square_root(gram: Matrix64) -> tuple[Matrix64, Matrix64]:
    """S with S S' = gram, and B with P B orthonormal where P'P = gram (P B S' = P)."""
    values, vectors = np.linalg.eigh(gram)
    is_significant = values > _NEGLIGIBLE * max(float(values[-1]), 1e-300)
    values, vectors = values[is_significant], vectors[:, is_significant]
    root = np.sqrt(values)
    return vectors * root, vectors / root
