"""What a model version holds: everything numeric, and nothing that is not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from app.engine.arrays import (
    Counts,
    InvalidArray,
    Matrix32,
    Matrix64,
    Rows,
    Vector32,
    Vector64,
    refuse_rows_outside,
)
from app.engine.losses.base import Loss
from app.engine.losses.catalog import SQUARED

Arrays = dict[str, npt.NDArray[Any]]

_DTYPES: dict[str, tuple[type[np.generic], int]] = {
    "mean": (np.float64, 0),
    "item_bias": (np.float32, 1),
    "item_factors": (np.float32, 2),
    "user_bias": (np.float32, 1),
    "user_factors": (np.float32, 2),
    "user_prior_mean": (np.float64, 1),
    "user_prior_covariance": (np.float64, 2),
    "noise_variance": (np.float64, 0),
    "item_counts": (np.int32, 1),
    "item_means": (np.float32, 1),
    "user_counts": (np.int32, 1),
    "popularity_shrinkage": (np.float64, 0),
}
"""Every array of a model: dtype and rank, in the order in which they enter the digest."""

_TEMPERATURE = "temperature"
"""One more, 0-d float64, where the loss is not the squared one."""


@dataclass(frozen=True, slots=True)
class UserPrior:
    """What is believed of a user before any rating: x_u = [b_u, p_u] ~ Normal(mean, covariance)."""

    mean: Vector64
    covariance: Matrix64


@dataclass(frozen=True, slots=True)
class FactorModel:
    """Biased matrix factorisation: r_hat = link(score), score = mean + b_u + b_i + p_u.q_i (Koren, Bell & Volinsky
    2009, eq. 4, where the link is the identity).

    item_factors [n_items, k], user_factors [n_users, k]; biases and counts one per row. item_means is the plain
    mean of an item's ratings (the overall mean where there are none); popularity_shrinkage is the number of
    ratings that the overall mean weighs in a popularity score. noise_variance is that of a rating around r_hat.
    """

    mean: float
    item_bias: Vector32
    item_factors: Matrix32
    user_bias: Vector32
    user_factors: Matrix32
    user_prior: UserPrior
    noise_variance: float
    item_counts: Counts
    item_means: Vector32
    user_counts: Counts
    popularity_shrinkage: float = 5.0
    loss: Loss = SQUARED
    """What the model was fitted with, in rating units: folding in minimises the same."""
    temperature: float = 0.0
    """Error that makes a rating e times less likely: exp(-error / temperature). Squared errors have noise_variance."""

    @property
    def mean_rating(self) -> float:
        """The rating that every prediction begins with."""
        return float(self.loss.rating_of(self.mean))

    @property
    def n_users(self) -> int:
        return int(self.user_bias.size)

    @property
    def n_items(self) -> int:
        return int(self.item_bias.size)

    @property
    def n_factors(self) -> int:
        return int(self.item_factors.shape[1])

    def arrays(self) -> Arrays:
        """Every number of the model by name, scalars as 0-d arrays: what a version folder stores."""
        extra: Arrays = {} if self.loss.is_squared else {_TEMPERATURE: np.array(self.temperature, np.float64)}
        return {
            **extra,
            "mean": np.array(self.mean, np.float64),
            "item_bias": self.item_bias,
            "item_factors": self.item_factors,
            "user_bias": self.user_bias,
            "user_factors": self.user_factors,
            "user_prior_mean": self.user_prior.mean,
            "user_prior_covariance": self.user_prior.covariance,
            "noise_variance": np.array(self.noise_variance, np.float64),
            "item_counts": self.item_counts,
            "item_means": self.item_means,
            "user_counts": self.user_counts,
            "popularity_shrinkage": np.array(self.popularity_shrinkage, np.float64),
        }

    @classmethod
    def from_arrays(cls, mapping: Mapping[str, npt.NDArray[Any]], loss: Loss = SQUARED) -> Self:
        """The inverse of `arrays`, which do not say the loss; read-only memory maps are taken as they are, uncopied.

        Raises InvalidArray when one is missing, has another dtype or rank, or does not fit the others.
        """
        for name in _DTYPES:
            _check_kind(name, mapping)
        if not loss.is_squared and _TEMPERATURE not in mapping:
            raise InvalidArray(_TEMPERATURE, "is missing from the model")
        _check_shapes(mapping)
        return cls(
            mean=float(mapping["mean"]),
            item_bias=mapping["item_bias"],
            item_factors=mapping["item_factors"],
            user_bias=mapping["user_bias"],
            user_factors=mapping["user_factors"],
            user_prior=UserPrior(mapping["user_prior_mean"], mapping["user_prior_covariance"]),
            noise_variance=float(mapping["noise_variance"]),
            item_counts=mapping["item_counts"],
            item_means=mapping["item_means"],
            user_counts=mapping["user_counts"],
            popularity_shrinkage=float(mapping["popularity_shrinkage"]),
            loss=loss,
            temperature=0.0 if loss.is_squared else float(mapping[_TEMPERATURE]),
        )

    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes in fixed order: equal models, equal digest."""
        sha = hashlib.sha256()
        arrays = self.arrays()
        for name in [*_DTYPES, *(() if self.loss.is_squared else (_TEMPERATURE,))]:
            array = np.ascontiguousarray(arrays[name])
            little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
            sha.update(f"{name} {little_endian.dtype.str} {array.shape}\n".encode())
            sha.update(little_endian.reshape(-1).view(np.uint8).data)
        return sha.hexdigest()

    def predict(self, user_rows: Rows, item_rows: Rows) -> Vector32:
        """r_hat of each pair by the trained vectors, not clipped to any scale."""
        return np.asarray(self.loss.rating_of(self.scores(user_rows, item_rows)), np.float32)

    def scores(self, user_rows: Rows, item_rows: Rows) -> Vector32:
        """r_hat before the link."""
        refuse_rows_outside(user_rows, self.n_users, "user_rows")
        refuse_rows_outside(item_rows, self.n_items, "item_rows")
        dots = np.einsum("nk,nk->n", self.user_factors[user_rows], self.item_factors[item_rows])
        values = np.float32(self.mean) + self.user_bias[user_rows] + self.item_bias[item_rows] + dots
        return np.asarray(values, np.float32)


def _check_kind(name: str, mapping: Mapping[str, npt.NDArray[Any]]) -> None:
    dtype, rank = _DTYPES[name]
    if name not in mapping:
        raise InvalidArray(name, "is missing from the model")
    array = mapping[name]
    if array.dtype != dtype or array.ndim != rank:
        raise InvalidArray(name, f"must be {rank}-d {np.dtype(dtype)}, not {array.ndim}-d {array.dtype}")
    if not array.flags.c_contiguous:
        raise InvalidArray(name, "must be in C order")


def _check_shapes(mapping: Mapping[str, npt.NDArray[Any]]) -> None:
    n_items, k = mapping["item_factors"].shape
    n_users = mapping["user_bias"].size
    expected: dict[str, tuple[int, ...]] = {
        "item_bias": (n_items,),
        "item_counts": (n_items,),
        "item_means": (n_items,),
        "user_factors": (n_users, k),
        "user_counts": (n_users,),
        "user_prior_mean": (k + 1,),
        "user_prior_covariance": (k + 1, k + 1),
    }
    for name, shape in expected.items():
        if mapping[name].shape != shape:
            raise InvalidArray(name, f"must have shape {shape}, not {mapping[name].shape}")
