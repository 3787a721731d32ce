"""How a model is handed to the fold-in kernels: one record of its numbers and of the addresses of its arrays.

Numba takes longer to unpack the arguments of a dozen arrays than a kernel takes to fold in a user, so that kernels take
the record instead and make arrays of the addresses themselves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import from_dtype, njit, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from app.engine.arrays import Mask, Matrix32, Matrix64, Vector32, Vector64
from app.engine.factors import FactorModel
from app.engine.fold_in.cholesky import invert_positive

_ADDRESSES = (
    *("item_factors", "item_bias", "item_noise", "is_known", "item_counts"),
    *("prior_precision", "prior_mean", "prior_information"),
    *("implicit_factors", "implicit_precision", "implicit_intercept", "implicit_count_slope"),
)
_NUMBERS = ("mean", "noise_variance", "unknown_bias", "unknown_variance")
_RECORD = np.dtype(
    [(name, np.int64) for name in (*_ADDRESSES, "n_items", "n_factors")] + [(name, np.float64) for name in _NUMBERS]
)
MODEL = types.Array(from_dtype(_RECORD), 1, "C")
"""Numba's type of `KernelModel.record`."""

_RIDGE = 1e-9
"""Added to prior variances, relative to their sum, so that a covariance without full rank can be inverted."""
_LEAST_NOISE = 1e-12


class KernelModel:
    """What folding in knows of a model. Keeps alive the arrays whose addresses the record holds.

    prior_precision = C^-1, prior_information = C^-1 m of the population prior Normal(m, C). item_noise [n_items]: noise
    variance of an item's ratings by that of the model. An unknown item (row -1, or one without ratings) has the mean
    effect of the rated items, unknown_bias, and their variance, unknown_variance, as more noise. In an average over
    models every item is known by its prior mean.
    """

    def __init__(self, model: FactorModel) -> None:
        posterior, prior = model.posterior, model.user_prior
        self.is_known: Mask = model.item_counts > 0 if posterior is None else np.ones(model.n_items, np.bool_)
        self.unknown_bias, self.unknown_variance = _average_item(model, self.is_known)
        self.noise_variance = max(model.noise_variance, _LEAST_NOISE)
        self.prior_precision = _inverse(prior.covariance)
        self.prior_mean = np.array(prior.mean, np.float64)
        self.prior_information: Vector64 = self.prior_precision @ prior.mean
        arrays: dict[str, npt.NDArray[Any]] = {
            "item_factors": model.item_factors,
            "item_bias": model.item_bias,
            "item_noise": np.ones(model.n_items, np.float32) if posterior is None else posterior.item_noise,
            "is_known": self.is_known,
            "item_counts": model.item_counts,
            "prior_precision": self.prior_precision,
            "prior_mean": self.prior_mean,
            "prior_information": self.prior_information,
        }
        if posterior is not None:
            arrays |= {
                "implicit_factors": posterior.implicit_factors,
                "implicit_precision": _inverse(posterior.implicit_covariance),
                "implicit_intercept": posterior.implicit_intercept,
                "implicit_count_slope": posterior.implicit_count_slope,
            }
        self._arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        self.record = np.zeros(1, _RECORD)
        for name, array in self._arrays.items():
            self.record[name] = array.ctypes.data
        self.record["n_items"], self.record["n_factors"] = model.item_factors.shape
        self.record["mean"], self.record["noise_variance"] = model.mean, self.noise_variance
        self.record["unknown_bias"], self.record["unknown_variance"] = self.unknown_bias, self.unknown_variance


class Items(NamedTuple):
    """The items of a model within a kernel: factors [n_items, k], the rest [n_items]."""

    factors: Matrix32
    bias: Vector32
    noise: Vector32
    is_known: Mask


class ImplicitPrior(NamedTuple):
    """The parameters of the implicit prior within a kernel; see `app.engine.factors.Posterior`."""

    factors: Matrix32
    precision: Matrix64
    intercept: Vector64
    count_slope: Vector64


_intrinsic: Any = intrinsic


@_intrinsic
def pointer(_typing: Any, _address: Any) -> Any:
    """The address as a pointer, for `carray`."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


@njit(nogil=True)
def items_of(model: Any) -> Items:
    """The item arrays of a model record."""
    it = model[0]
    n = it.n_items
    return Items(
        carray(pointer(it.item_factors), (n, it.n_factors), np.float32),
        carray(pointer(it.item_bias), (n,), np.float32),
        carray(pointer(it.item_noise), (n,), np.float32),
        carray(pointer(it.is_known), (n,), np.bool_),
    )


@njit(nogil=True)
def item_counts_of(model: Any) -> Any:
    """Number of ratings of each item."""
    return carray(pointer(model[0].item_counts), (model[0].n_items,), np.int32)


@njit(nogil=True)
def population_prior_of(model: Any) -> tuple[Matrix64, Vector64, Vector64]:
    """C^-1, m and C^-1 m of the population prior."""
    it = model[0]
    size = it.n_factors + 1
    return (
        carray(pointer(it.prior_precision), (size, size), np.float64),
        carray(pointer(it.prior_mean), (size,), np.float64),
        carray(pointer(it.prior_information), (size,), np.float64),
    )


@njit(nogil=True)
def has_implicit_prior(model: Any) -> bool:
    """Whether the model is an average over samples: only those have implicit factors."""
    has: bool = model[0].implicit_factors != 0
    return has


@njit(nogil=True)
def implicit_prior_of(model: Any) -> ImplicitPrior:
    """The implicit prior of a model that has one."""
    it = model[0]
    size = it.n_factors + 1
    return ImplicitPrior(
        carray(pointer(it.implicit_factors), (it.n_items, size), np.float32),
        carray(pointer(it.implicit_precision), (size, size), np.float64),
        carray(pointer(it.implicit_intercept), (size,), np.float64),
        carray(pointer(it.implicit_count_slope), (size,), np.float64),
    )


def _inverse(covariance: Matrix64) -> Matrix64:
    ridged = np.array(covariance, order="C")
    ridged[np.diag_indices_from(ridged)] += _RIDGE * max(float(np.trace(ridged)), 1e-12)
    inverse = np.empty_like(ridged)
    invert_positive(ridged, inverse)
    return inverse


def _average_item(model: FactorModel, is_known: Mask) -> tuple[float, float]:
    """Mean and variance of the biases of known items, each item once."""
    if not is_known.any():
        return 0.0, 0.0
    biases = model.item_bias[is_known].astype(np.float64)
    return float(biases.mean()), float(biases.var())
