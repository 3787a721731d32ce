"""What a model version holds: the arrays of a factor model, and how they are stored, checked and hashed."""

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

_Kind = tuple[type[np.generic], tuple[str, ...]]
"""Dtype and axes of an array. Axes of one name have one size: that of the first array that has them."""

_ARRAYS: dict[str, _Kind] = {
    "mean": (np.float64, ()),
    "item_bias": (np.float32, ("items",)),
    "item_factors": (np.float32, ("items", "factors")),
    "user_bias": (np.float32, ("users",)),
    "user_factors": (np.float32, ("users", "factors")),
    "user_prior_mean": (np.float64, ("bias and factors",)),
    "user_prior_covariance": (np.float64, ("bias and factors", "bias and factors")),
    "noise_variance": (np.float64, ()),
    "item_counts": (np.int32, ("items",)),
    "item_means": (np.float32, ("items",)),
    "user_counts": (np.int32, ("users",)),
    "popularity_shrinkage": (np.float64, ()),
}
"""Every array of a model, in the order in which they enter the digest."""
_USER_PRIOR = "user_prior_"
_TEMPERATURE = "temperature"
"""One more, 0-d float64, where the loss is not the squared one."""
_POSTERIOR = "posterior_"
_POSTERIOR_ARRAYS: dict[str, _Kind] = {
    "item_noise": (np.float32, ("items",)),
    "implicit_factors": (np.float32, ("items", "bias and factors")),
    "implicit_count_slope": (np.float64, ("bias and factors",)),
    "implicit_intercept": (np.float64, ("bias and factors",)),
    "implicit_covariance": (np.float64, ("bias and factors", "bias and factors")),
    "reach": (np.float64, ("levels",)),
    "user_widening": (np.float64, ("buckets",)),
    "item_widening": (np.float64, ("buckets",)),
    "holdout_scales": (np.float64, ("scales",)),
    "exposure_factors": (np.float32, ("items", "exposure")),
    "prior_exposure": (np.float64, ("exposure",)),
}
"""The arrays that an average over samples has besides, each stored with the prefix "posterior_"."""


@dataclass(frozen=True, slots=True)
class UserPrior:
    """The population prior, a user before any rating: x_u = [b_u, p_u] ~ Normal(mean, covariance)."""

    mean: Vector64
    covariance: Matrix64


@dataclass(frozen=True, slots=True)
class Posterior:
    """What an average over posterior samples knows besides the mean vectors (see `app.engine.bayes.average`).

    The uncertainty of item i multiplies the noise variance of its ratings by item_noise[i].

    The implicit prior: which items a user rated, whatever the values, is implicit feedback that shifts the prior mean
    of the user, as in SVD++ (Koren 2008). With n rated items and d = DAMPING it is

        implicit_intercept + (n + d)^-1/2 sum_i implicit_factors[i] + log(n + d) implicit_count_slope

    with covariance implicit_covariance, for large n; with few ratings the prior stays near the population prior (see
    `app.engine.fold_in.kernels.implicit_prior`).

    Intervals extend `reach` standard deviations to each side, one number for each level of
    `app.engine.fold_in.intervals.LEVELS`, times the widenings of the buckets of user and item by number of ratings.

    Exposure is what a user comes across, in rating units: see `app.engine.retrieval.by_relevance`.
    """

    item_noise: Vector32
    implicit_factors: Matrix32
    implicit_count_slope: Vector64
    implicit_intercept: Vector64
    implicit_covariance: Matrix64
    reach: Vector64
    user_widening: Vector64
    item_widening: Vector64
    holdout_scales: Vector64
    """Factors, chosen on the hold-out, of the estimates of implicit_covariance and of item_noise - 1."""
    exposure_factors: Matrix32
    prior_exposure: Vector64
    """[d]: the exposure of a user without ratings."""


@dataclass(frozen=True, slots=True)
class FactorModel:
    """Biased matrix factorisation: r_hat = link(score), score = mean + b_u + b_i + p_u.q_i (Koren, Bell & Volinsky
    2009, eq. 4, where the link is the identity).

    item_factors [n_items, k], user_factors [n_users, k]; biases and counts one per row. item_means is the plain
    mean of an item's ratings (the overall mean where there are none); popularity_shrinkage is the number of
    ratings that the overall mean weighs in a popularity score. noise_variance is that of a rating around r_hat.
    posterior is None unless the model is an average over posterior samples.
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
    """The loss that the model was fitted with, in rating units; folding in minimizes the same."""
    temperature: float = 0.0
    """Likelihood of an error: exp(-error / temperature). For squared errors noise_variance takes its place."""
    posterior: Posterior | None = None

    @property
    def mean_rating(self) -> float:
        """The mean as a rating, behind the link."""
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
        arrays = {name: np.asarray(self._value(name), dtype) for name, (dtype, _) in _ARRAYS.items()}
        if not self.loss.is_squared:
            arrays[_TEMPERATURE] = np.array(self.temperature, np.float64)
        if self.posterior is not None:
            arrays |= {_POSTERIOR + name: getattr(self.posterior, name) for name in _POSTERIOR_ARRAYS}
        return arrays

    def _value(self, name: str) -> object:
        in_prior = name.startswith(_USER_PRIOR)
        return getattr(self.user_prior, name.removeprefix(_USER_PRIOR)) if in_prior else getattr(self, name)

    @classmethod
    def from_arrays(cls, mapping: Mapping[str, npt.NDArray[Any]], loss: Loss = SQUARED) -> Self:
        """The inverse of `arrays`, which do not hold the loss; read-only memory maps are used as they are, uncopied.

        Raises InvalidArray when one is missing, has another dtype or rank, or does not fit the others.
        """
        kinds = dict(_ARRAYS)
        if not loss.is_squared:
            kinds[_TEMPERATURE] = (np.float64, ())
        has_posterior = any(name.startswith(_POSTERIOR) for name in mapping)
        if has_posterior:
            kinds |= {_POSTERIOR + name: kind for name, kind in _POSTERIOR_ARRAYS.items()}
        _check(mapping, kinds)
        prior = UserPrior(mapping["user_prior_mean"], mapping["user_prior_covariance"])
        posterior = {name: mapping[_POSTERIOR + name] for name in _POSTERIOR_ARRAYS} if has_posterior else None
        plain = [name for name in kinds if not name.startswith((_USER_PRIOR, _POSTERIOR))]
        values: dict[str, Any] = {name: mapping[name] if mapping[name].ndim else float(mapping[name]) for name in plain}
        return cls(user_prior=prior, loss=loss, posterior=Posterior(**posterior) if posterior else None, **values)

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


def _check(mapping: Mapping[str, npt.NDArray[Any]], kinds: Mapping[str, _Kind]) -> None:
    """Raises InvalidArray for the first array that is missing or of another kind."""
    sizes: dict[str, int] = {}
    for name in sorted(kinds, key=lambda name: name != "item_factors"):  # it says what most sizes are
        dtype, axes = kinds[name]
        if name not in mapping:
            raise InvalidArray(name, "is missing from the model")
        array, rank = mapping[name], len(axes)
        if array.dtype != dtype or array.ndim != rank:
            raise InvalidArray(name, f"must be {rank}-d {np.dtype(dtype)}, not {array.ndim}-d {array.dtype}")
        if not array.flags.c_contiguous:
            raise InvalidArray(name, "must be in C order")
        shape = tuple(sizes.setdefault(axis, size) for axis, size in zip(axes, array.shape, strict=True))
        if array.shape != shape:
            raise InvalidArray(name, f"must have shape {shape}, not {array.shape}")
        if name == "item_factors":
            sizes["bias and factors"] = array.shape[1] + 1
