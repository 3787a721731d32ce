"""Exact top-N without scoring every item: bounds in 8-bit numbers leave out what cannot be among the best.

Built once for a model. Items lie in the order of how high they could score, turned into the axes along which they
differ most, in blocks of 16. A group of blocks is passed over by its longest vector; of the others, the first few axes
are looked at, then the rest, and what could still be among the n best is scored from the model's own float32 vectors.
So the answer is that of scoring everything, bit for bit, ties by row. The bounds: docs/maths.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine.arrays import InvalidArray, Matrix32, Matrix64, Rows, Vector32, Vector64, refuse_rows_outside
from app.engine.data.row_sets import RowSet, Words
from app.engine.factors import Arrays, FactorModel
from app.engine.retrieval.brute_force import BruteForceRetriever
from app.engine.retrieval.index_kernels import (
    BIAS,
    BIAS_SLACK,
    BIASES,
    BLOCKS_OF_GROUP,
    FACTORS,
    ITEMS_OF_GROUP,
    LEAD,
    LEAD_ERROR,
    LEAD_PARTS,
    LENGTH,
    LONGEST,
    MIDDLE,
    MOST_REST,
    N_GROUPS,
    N_ITEMS,
    N_LEAD,
    N_OF_BLOCK,
    N_PLACES,
    NORM,
    OF_BLOCK,
    OF_GROUP,
    ORDER,
    SCALE,
    SCAN_COST,
    WHOLE,
    WHOLE_ERROR,
    WHOLE_SCALE,
    WHOLE_STRIDE,
    K,
    search_many,
    search_one,
)
from app.engine.retrieval.retriever import Query, RankedRows, Retriever
from app.engine.simd.int8_vectors import GROUP, GROUP_BYTES
from app.engine.simd.lanes import ALIGNMENT, LANES

Bytes = npt.NDArray[np.uint8]

_AT_ONCE = 512 * ITEMS_OF_GROUP

LEAST_ITEMS, LEAST_FACTORS, MOST_FACTORS = 512, 4, 1024
"""With fewer, scoring everything is as fast. With more factors a sum of bytes would no longer be an exact float32."""
_MOST_WILD = 64
"""Items with vectors longer than LONGEST, or shorter than its inverse and not zero, are always scored, and so is what
is no number: there are no bounds."""
_MOST_SKEWED = 1e-10
_NOBODY = 2e38
"""Minus the bias of places that hold no item."""
_STRIDE = 16
"""Bytes of an item's whole vector are a multiple of it."""
_BEYOND = GROUP_BYTES // _STRIDE
"""Rows after the last item's, since kernels read 64 bytes at once."""

LEAD_SHARE, LEAST_LEAD = 0.5, 2 * GROUP - 1
"""Share of the squared lengths that the axes of the first stage must hold, and how many there are at least."""

_NO_WORDS = np.zeros(0, np.uint64)

_DTYPES: dict[str, tuple[type[np.generic], int]] = {
    "rotation": (np.float64, 2),
    "order": (np.int32, 1),
    "lead": (np.uint8, 4),
    "whole": (np.uint8, 2),
    "bias": (np.float32, 1),
    "length": (np.float32, 1),
    "of_block": (np.float32, 3),
    "of_group": (np.float32, 2),
    "wild": (np.int32, 1),
}


def slack_of(k: int) -> float:
    """How much of |p| |q| (and of the other parts of a score) the rounding of float32 can take: (k + 64) 2^-24."""
    return (k + 64) * 2.0**-24


class TopNIndex:
    """The best rows of a model for any vector. Immutable; threads share it."""

    def __init__(self, model: FactorModel, arrays: Arrays) -> None:
        self.model = model
        self._n_items = model.n_items
        self._arrays = arrays
        self._rotation = np.array(arrays["rotation"], np.float64, order="C")
        self._wild: Rows = np.array(arrays["wild"], np.int32)
        self._slack = slack_of(model.n_factors)
        # Kernels take addresses: telling Numba of an array takes longer than looking at a block of items.
        self._held = [np.ascontiguousarray(array) for array in (model.item_factors, model.item_bias)]
        self._places = np.zeros(N_PLACES, np.int64)
        for place, name in _PLACES.items():
            self._places[place] = arrays[name].ctypes.data
        self._places[FACTORS], self._places[BIASES] = (array.ctypes.data for array in self._held)
        self._places[N_ITEMS], self._places[K] = model.n_items, model.n_factors
        self._places[N_GROUPS], self._places[LEAD_PARTS] = arrays["of_group"].shape[0], arrays["lead"].shape[1]
        self._places[WHOLE_STRIDE] = arrays["whole"].shape[1]
        self._places[N_LEAD] = _n_lead(model.n_factors, arrays)

    @classmethod
    def build(cls, model: FactorModel, n_lead: int | None = None) -> TopNIndex | None:
        """The index of a model, or None where scoring everything is as good: few items, or vectors out of all scale.

        n_lead: factors of the first stage, for tests and measurements; otherwise the spectrum decides.
        """
        arrays = _built(model, n_lead)
        return None if arrays is None else cls(model, arrays)

    @classmethod
    def from_arrays(cls, model: FactorModel, mapping: Mapping[str, npt.NDArray[np.generic]]) -> TopNIndex:
        """The inverse of `arrays`; maps are taken as they are. Raises InvalidArray where they do not fit the model."""
        _check(model, mapping)
        return cls(model, dict(mapping))

    def arrays(self) -> Arrays:
        """Everything by name: what a version folder stores."""
        return dict(self._arrays)

    @property
    def n_lead(self) -> int:
        """Factors that the first stage looks at; all of them where there is no second one."""
        return int(self._places[N_LEAD])

    def search(
        self,
        queries: Sequence[Query],
        n: int,
        *,
        candidates: Rows | None = None,
        among: RowSet | None = None,
        cosine: bool = False,
    ) -> list[RankedRows]:
        """See `Retriever.search`."""
        if n < 0:
            raise InvalidArray("n", f"must not be negative, not {n}")
        n = min(n, self._n_items)
        offered, only_offered = self._wild, False
        if candidates is not None:
            candidates, among = self._narrowed(candidates, among)
            offered, only_offered = (self._wild, False) if candidates is None else (candidates, True)
        words = _NO_WORDS if among is None else self._words_of(among)
        ask = self._for_one if len(queries) == 1 else self._for_several
        return ask(queries, n, words, offered, only_offered, cosine)

    def _for_one(
        self, queries: Sequence[Query], n: int, words: Words, offered: Rows, only_offered: bool, cosine: bool
    ) -> list[RankedRows]:
        vector, base, excluded = queries[0]
        values, rows = np.empty(n, np.float32), np.empty(n, np.int32)
        n_found = search_one(
            self._places,
            self._rotation,
            self._slack,
            cosine,
            np.ascontiguousarray(vector, np.float32),
            base,
            np.ascontiguousarray(excluded, np.int32),
            words,
            offered,
            only_offered,
            values,
            rows,
        )
        if n_found < 0:
            self._refuse(queries)
        return [(rows[:n_found], values[:n_found])]

    def _for_several(
        self, queries: Sequence[Query], n: int, words: Words, offered: Rows, only_offered: bool, cosine: bool
    ) -> list[RankedRows]:
        if not queries:
            return []
        values, rows = np.empty((len(queries), n), np.float32), np.empty((len(queries), n), np.int32)
        n_found = np.zeros(len(queries), np.int64)
        is_done = search_many(
            self._places,
            self._rotation,
            self._slack,
            cosine,
            np.concatenate([query.vector for query in queries], dtype=np.float32),
            np.array([query.base for query in queries], np.float64),
            np.concatenate([query.excluded for query in queries], dtype=np.int32),
            np.cumsum([query.excluded.size for query in queries]),
            words,
            offered,
            only_offered,
            n,
            values.reshape(-1),
            rows.reshape(-1),
            n_found,
        )
        if not is_done:
            self._refuse(queries)
        return [(rows[u, :found], values[u, :found]) for u, found in enumerate(n_found.tolist())]

    def _refuse(self, queries: Sequence[Query]) -> None:
        """Raises InvalidArray for what the kernels have turned down."""
        for query in queries:
            if query.vector.shape != (self.model.n_factors,):
                raise InvalidArray("vector", f"must have shape ({self.model.n_factors},), not {query.vector.shape}")
            refuse_rows_outside(query.excluded, self.model.n_items, "excluded", unknown_allowed=True)

    def _words_of(self, among: RowSet) -> Words:
        if among.n_rows != self.model.n_items:
            raise InvalidArray("among", f"is of {among.n_rows} rows; the model has {self.model.n_items}")
        return among.words

    def _narrowed(self, candidates: Rows, among: RowSet | None) -> tuple[Rows | None, RowSet | None]:
        """Candidates as ascending rows where they are few, else as part of the set."""
        n_items = self.model.n_items
        refuse_rows_outside(candidates, n_items, "candidates", unknown_allowed=True)
        if candidates.size <= n_items * SCAN_COST:
            distinct = np.unique(candidates)
            return distinct[np.searchsorted(distinct, 0) :].astype(np.int32), among
        listed = RowSet.of(candidates, n_items)
        return None, listed if among is None else among & listed


def build_retriever(model: FactorModel) -> Retriever:
    """An index, built now, or brute force where that is as fast."""
    return TopNIndex.build(model) or BruteForceRetriever(model)


_PLACES = {
    ORDER: "order",
    LEAD: "lead",
    WHOLE: "whole",
    BIAS: "bias",
    LENGTH: "length",
    OF_BLOCK: "of_block",
    OF_GROUP: "of_group",
}


def _n_lead(k: int, arrays: Arrays) -> int:
    """One byte of the first stage is for what the other factors make together, where there are any."""
    return GROUP * int(arrays["lead"].shape[1]) - 1 if arrays["whole"].size else k


def _built(model: FactorModel, n_lead: int | None) -> Arrays | None:
    n_items, k = model.item_factors.shape
    if n_items < LEAST_ITEMS or not LEAST_FACTORS <= k <= MOST_FACTORS:
        return None
    norms = _norms(model.item_factors)
    is_tame = (norms < LONGEST) & ((norms > 1 / LONGEST) | (norms == 0)) & (np.abs(model.item_bias) < LONGEST)
    wild = np.flatnonzero(~is_tame).astype(np.int32)
    tame = np.flatnonzero(is_tame).astype(np.int32)
    if wild.size > _MOST_WILD or not tame.size:
        return None
    order = tame[_by_promise(model, norms, tame)]
    spectrum, rotation = _axes(model.item_factors, order)
    if np.linalg.norm(rotation.T @ rotation - np.eye(k)) > _MOST_SKEWED:
        return None
    n_lead = n_lead or _lead_of(spectrum)
    arrays = _blocks(model, rotation, norms, order, n_lead)
    return {**arrays, "rotation": rotation, "wild": wild}


def _norms(factors: Matrix32) -> Vector64:
    norms = np.empty(factors.shape[0])
    for some in _slices(norms.size):
        norms[some] = np.linalg.norm(factors[some].astype(np.float64), axis=1)
    return norms


def _by_promise(model: FactorModel, norms: Vector64, rows: Rows) -> npt.NDArray[np.intp]:
    """Highest possible scores first, for a user with a vector of usual length."""
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
    """As few axes as hold the wanted share, one less than fours of them; all where a quarter of them does not."""
    k, total = spectrum.size, float(spectrum.sum())
    for n_lead in range(LEAST_LEAD, k // 4 + 1, GROUP):
        if spectrum[:n_lead].sum() >= LEAD_SHARE * total:
            return n_lead
    return k


def _blocks(model: FactorModel, rotation: Matrix64, norms: Vector64, order: Rows, n_lead: int) -> Arrays:
    """n_lead is rounded up to what fits in the same bytes."""
    n, k = order.size, model.n_factors
    parts = n_lead // GROUP + 1
    is_whole = GROUP * parts > k
    n_lead, parts = (k, -(-k // GROUP)) if is_whole else (GROUP * parts - 1, parts)
    n_groups = -(-n // ITEMS_OF_GROUP)
    n_places = n_groups * ITEMS_OF_GROUP
    stride = 0 if is_whole else -(-k // _STRIDE) * _STRIDE
    arrays: Arrays = {
        "order": np.full(n_places, -1, np.int32),
        "lead": _aligned_bytes(n_places // LANES, parts, LANES, GROUP),
        "whole": _aligned_bytes(n_places + _BEYOND, stride),
        "bias": np.zeros(n_places, np.float32),
        "length": np.zeros(n_places, np.float32),
        "of_block": np.zeros((n_groups, N_OF_BLOCK, BLOCKS_OF_GROUP), np.float32),
        "of_group": np.zeros((n_groups, 2), np.float32),
    }
    arrays["order"][:n] = order
    for some in _slices(n_places):
        part = _Part.of(model, rotation, norms, arrays["order"][some], n_lead)
        _fill(arrays, part, some, slack_of(k))
    return arrays


@dataclass(frozen=True, slots=True)
class _Rounded:
    """Vectors as whole numbers of a scale that the 16 of a block share."""

    numbers: npt.NDArray[np.float64]
    scale: Vector64
    error: Vector64

    @classmethod
    def of(cls, vectors: Matrix64, rest: Vector64) -> _Rounded:
        """The scale has room for the rest as one more number, up to twice as large."""
        wanted = np.maximum(np.abs(vectors).max(axis=1) / 127, rest / (2 * MOST_REST))
        scale = wanted.reshape(-1, LANES).max(axis=1).astype(np.float32).astype(np.float64)
        unit = np.repeat(np.where(scale > 0, scale, 1), LANES)
        numbers = np.clip(np.rint(vectors / unit[:, None]), -127, 127)
        return cls(numbers, unit, np.linalg.norm(vectors - numbers * unit[:, None], axis=1))


@dataclass(frozen=True, slots=True)
class _Part:
    """Items of a stretch of whole groups, in their order; where there is none, one that nobody can want."""

    lead: _Rounded
    whole: _Rounded
    rest: Vector64
    norms: Vector64
    bias: Vector32

    @classmethod
    def of(cls, model: FactorModel, rotation: Matrix64, norms: Vector64, order: Rows, n_lead: int) -> _Part:
        is_there = order >= 0
        turned = np.zeros((order.size, model.n_factors))
        turned[is_there] = model.item_factors[order[is_there]].astype(np.float64) @ rotation
        rest = np.linalg.norm(turned[:, n_lead:], axis=1)
        return cls(
            _Rounded.of(turned[:, :n_lead], rest),
            _Rounded.of(turned, np.zeros(order.size)),
            rest,
            np.where(is_there, norms[order], 0.0),
            np.where(is_there, model.item_bias[order], -_NOBODY).astype(np.float32),
        )


def _fill(arrays: Arrays, part: _Part, some: slice, slack: float) -> None:
    """These places, which are whole groups."""
    lead, whole = arrays["lead"], arrays["whole"]
    groups = slice(some.start // ITEMS_OF_GROUP, some.stop // ITEMS_OF_GROUP)
    lead[some.start // LANES : some.stop // LANES] = _in_groups(part, lead.shape[1])
    if whole.size:
        whole[some, : part.whole.numbers.shape[1]] = part.whole.numbers + MIDDLE
    arrays["bias"][some], arrays["length"][some] = part.bias, part.norms
    bias_slack = slack * np.where(part.bias > -_NOBODY, np.abs(part.bias), 0.0).astype(np.float64)
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
    """The first stage's bytes [blocks, n_parts, 16, 4]: factors without sign, then the rest, rounded up; then zero."""
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


def _check(model: FactorModel, mapping: Mapping[str, npt.NDArray[Any]]) -> None:
    for name, (dtype, rank) in _DTYPES.items():
        if name not in mapping:
            raise InvalidArray(name, "is missing from the index")
        array = mapping[name]
        if array.dtype != dtype or array.ndim != rank or not array.flags.c_contiguous:
            raise InvalidArray(name, f"must be {rank}-d {np.dtype(dtype)} in C order, not {array.ndim}-d {array.dtype}")
    k, n_groups = model.n_factors, mapping["of_group"].shape[0]
    n_places, parts, stride = n_groups * ITEMS_OF_GROUP, mapping["lead"].shape[1], mapping["whole"].shape[1]
    expected: dict[str, tuple[int, ...]] = {
        "rotation": (k, k),
        "order": (n_places,),
        "lead": (n_places // LANES, parts, LANES, GROUP),
        "whole": (n_places + _BEYOND, stride),
        "bias": (n_places,),
        "length": (n_places,),
        "of_block": (n_groups, N_OF_BLOCK, BLOCKS_OF_GROUP),
        "of_group": (n_groups, 2),
    }
    for name, shape in expected.items():
        if mapping[name].shape != shape:
            raise InvalidArray(name, f"must have shape {shape}, not {mapping[name].shape}")
    if GROUP * parts < k if stride == 0 else not (0 < GROUP * parts <= k <= stride):
        raise InvalidArray("lead", f"and whole hold {GROUP * parts} and {stride} bytes; the model has {k} factors")
    for name in ("order", "wild"):
        refuse_rows_outside(mapping[name], model.n_items, name, unknown_allowed=True)
