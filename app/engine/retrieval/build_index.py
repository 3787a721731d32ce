"""Builds and checks the arrays of a `TopNIndex`: bounds for blocks of 16 items, from quantised vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine.arrays import InvalidArray, Matrix32, Matrix64, Rows, Vector32, Vector64, refuse_rows_outside
from app.engine.factors import Arrays, FactorModel
from app.engine.retrieval.index_kernels import (
    BIAS_SLACK,
    BLOCKS_OF_GROUP,
    ITEMS_OF_GROUP,
    LEAD_ERROR,
    LONGEST,
    MIDDLE,
    MOST_REST,
    N_OF_BLOCK,
    NORM,
    SCALE,
    WHOLE_ERROR,
    WHOLE_SCALE,
)
from app.engine.simd.int8_vectors import GROUP, GROUP_BYTES
from app.engine.simd.lanes import ALIGNMENT, LANES

Bytes = npt.NDArray[np.uint8]

_AT_ONCE = 512 * ITEMS_OF_GROUP

LEAST_ITEMS, LEAST_FACTORS, MOST_FACTORS = 512, 4, 1024
"""With fewer items or factors brute force is as fast. With more factors a sum of bytes would be no exact float32."""
_MAX_OUTLIERS = 64
"""Items with vectors longer than LONGEST, or shorter than its inverse and not zero, or with NaN are outliers: they have
no bounds, and every search scores them."""
_MAX_SKEW = 1e-10
_NO_ITEM_BIAS = 2e38
"""Minus the bias of padding without an item."""
_STRIDE = 16
"""The bytes of an item's whole vector are a multiple of it."""
_BEYOND = GROUP_BYTES // _STRIDE
"""Rows after the last item's, since kernels read 64 bytes at once."""

LEAD_SHARE, LEAST_LEAD = 0.5, 2 * GROUP - 1
"""Share of the squared lengths that the axes of the first stage must hold, and their least number."""

_DTYPES: dict[str, tuple[type[np.generic], int]] = {
    "rotation": (np.float64, 2),
    "order": (np.int32, 1),
    "lead": (np.uint8, 4),
    "whole": (np.uint8, 2),
    "bias": (np.float32, 1),
    "length": (np.float32, 1),
    "of_block": (np.float32, 3),
    "of_group": (np.float32, 2),
    "outliers": (np.int32, 1),
}


def slack_of(k: int) -> float:
    """Bound of the relative rounding error of a float32 score: (k + 64) 2^-24."""
    return (k + 64) * 2.0**-24


def n_lead_of(k: int, arrays: Arrays) -> int:
    """One byte of the first stage is for the length of the remaining factors, where there are any."""
    return GROUP * int(arrays["lead"].shape[1]) - 1 if arrays["whole"].size else k


def build_arrays(model: FactorModel, n_lead: int | None) -> Arrays | None:
    """The arrays of the index, or None where brute force is as good; n_lead: see `TopNIndex.build`."""
    n_items, k = model.item_factors.shape
    if n_items < LEAST_ITEMS or not LEAST_FACTORS <= k <= MOST_FACTORS:
        return None
    norms = _norms(model.item_factors)
    is_regular = (norms < LONGEST) & ((norms > 1 / LONGEST) | (norms == 0)) & (np.abs(model.item_bias) < LONGEST)
    outliers = np.flatnonzero(~is_regular).astype(np.int32)
    regular = np.flatnonzero(is_regular).astype(np.int32)
    if outliers.size > _MAX_OUTLIERS or not regular.size:
        return None
    order = regular[_by_highest_score(model, norms, regular)]
    spectrum, rotation = _axes(model.item_factors, order)
    if np.linalg.norm(rotation.T @ rotation - np.eye(k)) > _MAX_SKEW:
        return None
    n_lead = n_lead or _lead_of(spectrum)
    arrays = _blocks(model, rotation, norms, order, n_lead)
    return {**arrays, "rotation": rotation, "outliers": outliers}


def _norms(factors: Matrix32) -> Vector64:
    norms = np.empty(factors.shape[0])
    for some in _slices(norms.size):
        norms[some] = np.linalg.norm(factors[some].astype(np.float64), axis=1)
    return norms


def _by_highest_score(model: FactorModel, norms: Vector64, rows: Rows) -> npt.NDArray[np.intp]:
    """Highest possible scores first, for a user with a vector of expected length."""
    prior = model.user_prior
    usual = np.sqrt(max(float(np.trace(prior.covariance[1:, 1:]) + prior.mean[1:] @ prior.mean[1:]), 0.0))
    usual = usual if np.isfinite(usual) and usual > 0 else 1.0
    return np.argsort(-(model.item_bias[rows] + usual * norms[rows]), kind="stable")


def _axes(factors: Matrix32, rows: Rows) -> tuple[Vector64, Matrix64]:
    """Sums of squares along the principal axes (about zero), largest first, and the axes as columns."""
    k = factors.shape[1]
    products = np.zeros((k, k))
    scale = float(np.abs(factors[rows]).max()) or 1.0
    for some in _slices(rows.size):
        part = factors[rows[some]].astype(np.float64) / scale
        products += part.T @ part
    spectrum, axes = np.linalg.eigh(products)
    return np.maximum(spectrum[::-1], 0.0), np.ascontiguousarray(axes[:, ::-1])


def _lead_of(spectrum: Vector64) -> int:
    """The fewest axes that hold LEAD_SHARE, one less than a multiple of 4; all where a quarter is not enough."""
    k, total = spectrum.size, float(spectrum.sum())
    for n_lead in range(LEAST_LEAD, k // 4 + 1, GROUP):
        if spectrum[:n_lead].sum() >= LEAD_SHARE * total:
            return n_lead
    return k


def _blocks(model: FactorModel, rotation: Matrix64, norms: Vector64, order: Rows, n_lead: int) -> Arrays:
    """The arrays of the index; n_lead is rounded up to what fits in the same bytes."""
    n, k = order.size, model.n_factors
    parts = n_lead // GROUP + 1
    is_whole = GROUP * parts > k
    n_lead, parts = (k, -(-k // GROUP)) if is_whole else (GROUP * parts - 1, parts)
    n_groups = -(-n // ITEMS_OF_GROUP)
    n_positions = n_groups * ITEMS_OF_GROUP
    stride = 0 if is_whole else -(-k // _STRIDE) * _STRIDE
    arrays: Arrays = {
        "order": np.full(n_positions, -1, np.int32),
        "lead": _aligned_bytes(n_positions // LANES, parts, LANES, GROUP),
        "whole": _aligned_bytes(n_positions + _BEYOND, stride),
        "bias": np.zeros(n_positions, np.float32),
        "length": np.zeros(n_positions, np.float32),
        "of_block": np.zeros((n_groups, N_OF_BLOCK, BLOCKS_OF_GROUP), np.float32),
        "of_group": np.zeros((n_groups, 2), np.float32),
    }
    arrays["order"][:n] = order
    for some in _slices(n_positions):
        part = _Part.of(model, rotation, norms, arrays["order"][some], n_lead)
        _fill(arrays, part, some, slack_of(k))
    return arrays


@dataclass(frozen=True, slots=True)
class _Rounded:
    """Vectors quantised to whole numbers of a scale that the 16 of a block share."""

    numbers: npt.NDArray[np.float64]
    scale: Vector64
    error: Vector64

    @classmethod
    def of(cls, vectors: Matrix64, rest: Vector64) -> _Rounded:
        """The scale leaves room for the length of the rest as one more number, up to twice as large."""
        smallest = np.maximum(np.abs(vectors).max(axis=1) / 127, rest / (2 * MOST_REST))
        scale = smallest.reshape(-1, LANES).max(axis=1).astype(np.float32).astype(np.float64)
        unit = np.repeat(np.where(scale > 0, scale, 1), LANES)
        numbers = np.clip(np.rint(vectors / unit[:, None]), -127, 127)
        return cls(numbers, unit, np.linalg.norm(vectors - numbers * unit[:, None], axis=1))


@dataclass(frozen=True, slots=True)
class _Part:
    """A range of whole groups of items in their order; padding is an item with the lowest bias."""

    lead: _Rounded
    whole: _Rounded
    rest: Vector64
    norms: Vector64
    bias: Vector32

    @classmethod
    def of(cls, model: FactorModel, rotation: Matrix64, norms: Vector64, order: Rows, n_lead: int) -> _Part:
        is_item = order >= 0
        rotated = np.zeros((order.size, model.n_factors))
        rotated[is_item] = model.item_factors[order[is_item]].astype(np.float64) @ rotation
        rest = np.linalg.norm(rotated[:, n_lead:], axis=1)
        return cls(
            _Rounded.of(rotated[:, :n_lead], rest),
            _Rounded.of(rotated, np.zeros(order.size)),
            rest,
            np.where(is_item, norms[order], 0.0),
            np.where(is_item, model.item_bias[order], -_NO_ITEM_BIAS).astype(np.float32),
        )


def _fill(arrays: Arrays, part: _Part, some: slice, slack: float) -> None:
    """Writes the arrays of these positions, which are whole groups."""
    lead, whole = arrays["lead"], arrays["whole"]
    groups = slice(some.start // ITEMS_OF_GROUP, some.stop // ITEMS_OF_GROUP)
    lead[some.start // LANES : some.stop // LANES] = _in_groups(part, lead.shape[1])
    if whole.size:
        whole[some, : part.whole.numbers.shape[1]] = part.whole.numbers + MIDDLE
    arrays["bias"][some], arrays["length"][some] = part.bias, part.norms
    bias_slack = slack * np.where(part.bias > -_NO_ITEM_BIAS, np.abs(part.bias), 0.0).astype(np.float64)
    largest = {
        SCALE: part.lead.scale,
        LEAD_ERROR: part.lead.error,
        NORM: part.norms,
        BIAS_SLACK: bias_slack,
        WHOLE_SCALE: part.whole.scale,
        WHOLE_ERROR: part.whole.error,
    }
    for line, values in largest.items():
        arrays["of_block"][groups, line] = values.reshape(-1, BLOCKS_OF_GROUP, LANES).max(axis=2)
    highest, longest, most_slack = (
        values.reshape(-1, ITEMS_OF_GROUP).max(axis=1) for values in (part.bias, part.norms, bias_slack)
    )
    arrays["of_group"][groups, 0] = highest + most_slack
    arrays["of_group"][groups, 1] = longest * (1 + 2 * slack)


def _in_groups(part: _Part, n_parts: int) -> Bytes:
    """The bytes of the first stage [blocks, n_parts, 16, 4]: unsigned factors, the rest's length rounded up, zeros."""
    numbers, scale = part.lead.numbers, part.lead.scale
    n, n_lead = numbers.shape
    full = np.zeros((n, n_parts * GROUP), np.uint8)
    full[:, :n_lead] = numbers + MIDDLE
    if n_lead < part.whole.numbers.shape[1]:
        full[:, n_lead] = np.ceil(part.rest / scale)
    return full.reshape(n // LANES, LANES, n_parts, GROUP).transpose(0, 2, 1, 3)


def _aligned_bytes(*shape: int) -> Bytes:
    size = int(np.prod(shape))
    room = np.zeros(size + ALIGNMENT, np.uint8)
    skip = -room.ctypes.data % ALIGNMENT
    return room[skip : skip + size].reshape(shape)


def _slices(n: int) -> Iterator[slice]:
    return (slice(start, min(start + _AT_ONCE, n)) for start in range(0, n, _AT_ONCE))


def check_arrays(model: FactorModel, mapping: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raises InvalidArray for the first array that is missing, of another kind, or does not fit the model."""
    for name, (dtype, rank) in _DTYPES.items():
        if name not in mapping:
            raise InvalidArray(name, "is missing from the index")
        array = mapping[name]
        if array.dtype != dtype or array.ndim != rank or not array.flags.c_contiguous:
            raise InvalidArray(name, f"must be {rank}-d {np.dtype(dtype)} in C order, not {array.ndim}-d {array.dtype}")
    k, n_groups = model.n_factors, mapping["of_group"].shape[0]
    n_positions, parts, stride = n_groups * ITEMS_OF_GROUP, mapping["lead"].shape[1], mapping["whole"].shape[1]
    expected: dict[str, tuple[int, ...]] = {
        "rotation": (k, k),
        "order": (n_positions,),
        "lead": (n_positions // LANES, parts, LANES, GROUP),
        "whole": (n_positions + _BEYOND, stride),
        "bias": (n_positions,),
        "length": (n_positions,),
        "of_block": (n_groups, N_OF_BLOCK, BLOCKS_OF_GROUP),
        "of_group": (n_groups, 2),
    }
    for name, shape in expected.items():
        if mapping[name].shape != shape:
            raise InvalidArray(name, f"must have shape {shape}, not {mapping[name].shape}")
    if GROUP * parts < k if stride == 0 else not (0 < GROUP * parts <= k <= stride):
        raise InvalidArray("lead", f"and whole hold {GROUP * parts} and {stride} bytes; the model has {k} factors")
    for name in ("order", "outliers"):
        refuse_rows_outside(mapping[name], model.n_items, name, unknown_allowed=True)
