"""What folding in returns: one user's vector and how well it is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.engine.arrays import Matrix64, Vector32


@dataclass(frozen=True, slots=True)
class UserVector:
    """What is known of one user: x_u = [bias, factors], and how well: the Cholesky factor U of A_u, U'U = A_u.

    A_u^-1 is the covariance of x_u; only the upper triangle of `upper` [k + 1, k + 1] means anything.
    """

    bias: float
    factors: Vector32
    upper: Matrix64
    n_ratings: int
    noise_scale: float = 1.0
    """This user's noise variance by the usual one."""

    def covariance(self) -> Matrix64:
        """A_u^-1 [k + 1, k + 1], bias first."""
        inverse = np.linalg.inv(np.triu(self.upper))
        covariance: Matrix64 = inverse @ inverse.T
        return covariance
