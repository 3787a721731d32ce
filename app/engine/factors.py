"""What a model version holds: everything numeric, and nothing that is not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from app.engine.arrays import Counts, InvalidArray, Matrix32, Matrix64, Rows, Vector32, Vector64, refuse_rows_outside
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


_POSTERIOR = "posterior_"
_POSTERIOR_DTYPES: dict[str, tuple[type[np.generic], int]] = {
    "item_noise": (np.float32, 1),
    "item_hints": (np.float32, 2),
    "count_hint": (np.float64, 1),
    "hint_base": (np.float64, 1),
    "hinted_covariance": (np.float64, 2),
    "reach": (np.float64, 1),
    "user_widening": (np.float64, 1),
    "item_widening": (np.float64, 1),
    "trust": (np.float64, 1),
    "item_appeal": (np.float32, 2),
    "usual_interest": (np.float64, 1),
}
"""The arrays that a model has besides where it is the mean of a posterior."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """What is known besides the vectors where they are the mean over many samples (see `app.engine.bayes.average`).

    Doubt about item i makes the noise of its ratings item_noise[i] times as large. Having rated items, whatever the
    values, moves the prior mean of a user with n ratings to

        hint_base + (n + d)^-1/2 sum_i item_hints[i] + log(n + d) count_hint,      with covariance hinted_covariance

    where n is large; few ratings leave the prior mean nearer to the crowd's (see `app.engine.fold_in.fold_in`).

    Intervals reach `reach` standard deviations, one number for each of `app.engine.fold_in.intervals.LEVELS`, times the
    widenings of the buckets of user and item by their number of ratings.
    """

    item_noise: Vector32
    item_hints: Matrix32
    count_hint: Vector64
    hint_base: Vector64
    hinted_covariance: Matrix64
    reach: Vector64
    user_widening: Vector64
    item_widening: Vector64
    trust: Vector64
    """What the hold-out made of hinted_covariance and item_noise, by what they were estimated to be."""
    item_appeal: Matrix32
    """[n_items, d]: what users like this one come across, in rating units; see `app.engine.retrieval.by_relevance`."""
    usual_interest: Vector64
    """[d]: the interest of somebody who has rated nothing."""


@dataclass(frozen=True, slots=True)
class FactorModel:
    """Biased matrix factorisation: r_hat = link(score), score = mean + b_u + b_i + p_u.q_i (Koren, Bell & Volinsky
    2009, eq. 4, where the link is the identity).

    item_factors [n_items, k], user_factors [n_users, k]; biases and counts one per row. item_means is the plain
    mean of an item's ratings (the overall mean where there are none); popularity_shrinkage is the number of
    ratings that the overall mean weighs in a popularity score. noise_variance is that of a rating around r_hat.
    posterior is there where the factors are means over samples.
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
    posterior: Posterior | None = None

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
        arrays: Arrays = {
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
        if not self.loss.is_squared:
            arrays[_TEMPERATURE] = np.array(self.temperature, np.float64)
        if self.posterior is not None:
            arrays |= {_POSTERIOR + name: getattr(self.posterior, name) for name in _POSTERIOR_DTYPES}
        return arrays

    @classmethod
    def from_arrays(cls, mapping: Mapping[str, npt.NDArray[Any]], loss: Loss = SQUARED) -> Self:
        """The inverse of `arrays`, which do not say the loss; read-only memory maps are taken as they are, uncopied.

        Raises InvalidArray when one is missing, has another dtype or rank, or does not fit the others.
        """
        for name, kind in _DTYPES.items():
            _check_kind(name, kind, mapping)
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
            posterior=_posterior_of(mapping),
        )

    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes in fixed order: equal models, equal digest."""
        sha = hashlib.sha256()
        arrays = self.arrays()
        for name in arrays:
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


def _posterior_of(mapping: Mapping[str, npt.NDArray[Any]]) -> Posterior | None:
    if not any(name.startswith(_POSTERIOR) for name in mapping):
        return None
    mapping = {**_no_appeal(mapping["item_bias"].size), **mapping}
    for name, kind in _POSTERIOR_DTYPES.items():
        _check_kind(_POSTERIOR + name, kind, mapping)
    n_items, k = mapping["item_factors"].shape
    shapes: dict[str, tuple[int, ...]] = {
        "item_noise": (n_items,),
        "item_hints": (n_items, k + 1),
        "count_hint": (k + 1,),
        "hint_base": (k + 1,),
        "hinted_covariance": (k + 1, k + 1),
        "item_appeal": (n_items, mapping[_POSTERIOR + "usual_interest"].size),
    }
    for name, shape in shapes.items():
        _check_shape(_POSTERIOR + name, shape, mapping)
    return Posterior(**{name: mapping[_POSTERIOR + name] for name in _POSTERIOR_DTYPES})


def _no_appeal(n_items: int) -> Arrays:
    """What versions lack that were made before lists were ordered by relevance: there it is the predicted rating."""
    arrays: Arrays = {"item_appeal": np.zeros((n_items, 0), np.float32), "usual_interest": np.zeros(0)}
    return {_POSTERIOR + name: array for name, array in arrays.items()}


def _check_kind(name: str, kind: tuple[type[np.generic], int], mapping: Mapping[str, npt.NDArray[Any]]) -> None:
    dtype, rank = kind
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
        _check_shape(name, shape, mapping)


def _check_shape(name: str, shape: tuple[int, ...], mapping: Mapping[str, npt.NDArray[Any]]) -> None:
    if mapping[name].shape != shape:
        raise InvalidArray(name, f"must have shape {shape}, not {mapping[name].shape}")
