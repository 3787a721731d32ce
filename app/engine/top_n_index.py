"""Exact top-N without scoring every item: bounds in 8-bit numbers leave out what cannot be among the best.

Built once for a model. Items lie in the order of how high they could score, turned into the axes along which they
differ most, in blocks of 16. A group of blocks is passed over by its longest vector; of the others, the first few axes
are looked at, then the rest, and what could still be among the n best is scored from the model's own float32 vectors.
So the answer is that of scoring everything, bit for bit, ties by row. The bounds: docs/maths.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine.arrays import InvalidArray, Matrix32, Matrix64, Rows, Vector32, Vector64, refuse_rows_outside
from app.engine.byte_vectors import GROUP
from app.engine.factors import Arrays, FactorModel
from app.engine.lanes import ALIGNMENT, LANES
from app.engine.row_sets import RowSet
from app.engine.top_n_index_kernels import (
    BIAS,
    BIAS_SLACK,
    BIASES,
    BLOCKS_OF_GROUP,
    ERROR,
    FACTORS,
    LEAD,
    LEAD_ERROR,
    LENGTH,
    LINES,
    MIDDLE,
    N_GROUPS,
    N_LEAD,
    N_LINES,
    N_OF_BLOCK,
    N_PLACES,
    N_TAIL,
    NORM,
    OF_BLOCK,
    OF_GROUP,
    ORDER,
    REST,
    SCALE,
    TAIL,
    K,
    best_first,
    offer_members,
    offer_rows,
    scan,
)

Bytes4 = npt.NDArray[np.uint8]
"""Bytes of items [n_blocks, groups of four factors, 16, 4]."""

ITEMS_OF_GROUP = LANES * BLOCKS_OF_GROUP
_AT_ONCE = 512 * ITEMS_OF_GROUP

LEAST_ITEMS, LEAST_FACTORS, MOST_FACTORS = 512, 4, 1024
"""With fewer, scoring everything is as fast. With more factors a sum of bytes would no longer be an exact float32."""
_LONGEST = 1e15
"""Items with vectors longer than this, or shorter than its inverse and not zero, are always scored, and so is what is
no number: there are no bounds."""
_MOST_WILD = 64
_MOST_SKEWED = 1e-10
_NOBODY = 2e38
"""Minus the bias of places that hold no item."""

LEAD_SHARE = 0.4
"""Share of the squared lengths that the axes of the first stage must hold."""
SCAN_COST = 1 / 40
"""What an item costs in a scan, in units of scoring one by itself."""

_NO_ROWS = np.zeros(0, np.int32)
_NO_WORDS = np.zeros(0, np.uint64)
_NO_LENGTHS = np.zeros(0)

_DTYPES: dict[str, tuple[type[np.generic], int]] = {
    "rotation": (np.float64, 2),
    "order": (np.int32, 1),
    "lead": (np.uint8, 4),
    "tail": (np.uint8, 4),
    "lines": (np.float32, 3),
    "of_block": (np.float32, 2),
    "of_group": (np.float32, 2),
    "wild": (np.int32, 1),
}


def slack_of(k: int) -> float:
    """How much of |p| |q| (and of the other parts of a score) the rounding of float32 can take: (k + 64) 2^-24."""
    return (k + 64) * 2.0**-24


@dataclass(frozen=True, slots=True)
class Query:
    """A vector to look with, what is added to each of its scores, and rows that it must not find."""

    vector: Vector32
    base: float = 0.0
    excluded: Rows = field(default_factory=lambda: _NO_ROWS)


class TopNIndex:
    """The best rows of a model for any vector. Immutable; threads share it."""

    def __init__(self, model: FactorModel, arrays: Arrays) -> None:
        self.model = model
        self._arrays = arrays
        self._rotation = np.array(arrays["rotation"], np.float64, order="C")
        self._wild: Rows = np.array(arrays["wild"], np.int32)
        self._slack = slack_of(model.n_factors)
        # Kernels take addresses: telling Numba of a read-only array costs more than a scan of a few thousand items.
        self._held = [np.ascontiguousarray(array) for array in (model.item_factors, model.item_bias)]
        self._places = np.zeros(N_PLACES, np.int64)
        for place, name in _PLACES.items():
            self._places[place] = arrays[name].ctypes.data
        self._places[FACTORS], self._places[BIASES] = (array.ctypes.data for array in self._held)
        self._places[K] = model.n_factors
        self._places[N_GROUPS] = arrays["of_group"].shape[0]
        self._places[N_LEAD], self._places[N_TAIL] = arrays["lead"].shape[1], arrays["tail"].shape[1]

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
        return min(self.model.n_factors, GROUP * int(self._places[N_LEAD]))

    def best(
        self,
        queries: Sequence[Query],
        n: int,
        *,
        candidates: Rows | None = None,
        among: RowSet | None = None,
        cosine: bool = False,
    ) -> list[tuple[Rows, Vector32]]:
        """The n best rows for each query, best first, and their scores: base + b_i + p.q_i, or cosines of p and q_i.

        Fewer where fewer are left; scores that are not numbers never appear. Rows are taken from `candidates` and
        `among`, where given. Rows of -1 are passed over; others outside the model raise InvalidArray.
        """
        if n < 0:
            raise InvalidArray("n", f"must not be negative, not {n}")
        hunt = self._hunt(queries, min(n, self.model.n_items), cosine)
        few, among = self._narrowed(candidates, among)
        if not hunt.n or not queries:
            return hunt.lists()
        if few is not None:
            self._offer(hunt, few, among)
        elif self._is_quicker_one_by_one(hunt, among):
            self._offer_members(hunt, among or RowSet.everything(self.model.n_items))
        else:
            self._offer(hunt, self._wild, among)
            self._scan(hunt, among)
        return hunt.lists()

    def _hunt(self, queries: Sequence[Query], n: int, cosine: bool) -> _Hunt:
        shape = len(queries), self.model.n_factors
        vectors = np.empty(shape, np.float32)
        for place, query in enumerate(queries):
            vectors[place] = query.vector
            if query.excluded.size:
                refuse_rows_outside(query.excluded, self.model.n_items, "excluded", unknown_allowed=True)
        return _Hunt(
            n,
            cosine,
            vectors,
            np.array([query.base for query in queries], np.float64),
            [np.sort(query.excluded) for query in queries],
            np.empty((shape[0], n), np.float32),
            np.empty((shape[0], n), np.int32),
            np.zeros(shape[0], np.int64),
        )

    def _narrowed(self, candidates: Rows | None, among: RowSet | None) -> tuple[Rows | None, RowSet | None]:
        """Candidates as ascending rows where they are few, else as part of the set."""
        n_items = self.model.n_items
        if among is not None and among.n_rows != n_items:
            raise InvalidArray("among", f"is of {among.n_rows} rows; the model has {n_items}")
        if candidates is None:
            return None, among
        refuse_rows_outside(candidates, n_items, "candidates", unknown_allowed=True)
        if candidates.size <= n_items * SCAN_COST:
            distinct = np.unique(candidates)
            return distinct[np.searchsorted(distinct, 0) :].astype(np.int32), among
        listed = RowSet.of(candidates, n_items)
        return None, listed if among is None else among & listed

    def _is_quicker_one_by_one(self, hunt: _Hunt, among: RowSet | None) -> bool:
        """Or the only way: a vector without measure has no bounds."""
        n_items = self.model.n_items
        n_members = n_items if among is None else among.n_members
        if n_members <= max(n_items * SCAN_COST, 2 * hunt.n):
            return True
        lengths = np.linalg.norm(hunt.vectors.astype(np.float64), axis=1) if hunt.cosine else _NO_LENGTHS
        flat = hunt.vectors.reshape(-1)
        return not (
            float(flat @ flat) < _LONGEST**2
            and max(map(abs, hunt.bases.tolist()), default=0.0) < _LONGEST
            and bool(np.all(lengths > 1 / _LONGEST))  # below it squares are not exact enough for the bounds
        )

    def _offer(self, hunt: _Hunt, rows: Rows, among: RowSet | None) -> None:
        """Score these one by one; the lists are in order unless a scan takes them on."""
        words = _NO_WORDS if among is None else among.words
        for u, excluded in enumerate(hunt.excluded) if rows.size else ():
            hunt.n_found[u] = offer_rows(
                self._places,
                hunt.cosine,
                hunt.vectors[u],
                hunt.bases[u],
                rows,
                excluded,
                words,
                hunt.values[u],
                hunt.rows[u],
                0,
            )
        if rows is not self._wild:
            hunt.sort()

    def _offer_members(self, hunt: _Hunt, members: RowSet) -> None:
        for u, excluded in enumerate(hunt.excluded):
            hunt.n_found[u] = offer_members(
                self._places,
                hunt.cosine,
                hunt.vectors[u],
                hunt.bases[u],
                members.words,
                excluded,
                hunt.values[u],
                hunt.rows[u],
            )
        hunt.sort()

    def _scan(self, hunt: _Hunt, among: RowSet | None) -> None:
        alone = len(hunt.excluded) == 1
        ends = [hunt.excluded[0].size] if alone else np.cumsum([rows.size for rows in hunt.excluded])
        scan(
            self._places,
            self._rotation,
            self._slack,
            hunt.cosine,
            hunt.vectors,
            hunt.bases,
            hunt.excluded[0] if alone else np.concatenate(hunt.excluded),
            np.array(ends, np.int64),
            _NO_WORDS if among is None else among.words,
            hunt.values,
            hunt.rows,
            hunt.n_found,
        )


@dataclass(frozen=True, slots=True)
class _Hunt:
    """One search for some users: what is looked with, and what has been found."""

    n: int
    cosine: bool
    vectors: Matrix32
    bases: Vector64
    excluded: list[Rows]
    values: Matrix32
    rows: npt.NDArray[np.int32]
    n_found: npt.NDArray[np.int64]

    def sort(self) -> None:
        for u, n_found in enumerate(self.n_found.tolist()):
            best_first(self.values[u], self.rows[u], n_found)

    def lists(self) -> list[tuple[Rows, Vector32]]:
        return [(self.rows[u, :found], self.values[u, :found]) for u, found in enumerate(self.n_found.tolist())]


_PLACES = {ORDER: "order", LEAD: "lead", TAIL: "tail", LINES: "lines", OF_BLOCK: "of_block", OF_GROUP: "of_group"}


def _built(model: FactorModel, n_lead: int | None) -> Arrays | None:
    n_items, k = model.item_factors.shape
    if n_items < LEAST_ITEMS or not LEAST_FACTORS <= k <= MOST_FACTORS:
        return None
    norms = _norms(model.item_factors)
    is_tame = (norms < _LONGEST) & ((norms > 1 / _LONGEST) | (norms == 0)) & (np.abs(model.item_bias) < _LONGEST)
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
    """As few axes as hold the wanted share, by fours; all of them where that takes more than half of them."""
    k, total = spectrum.size, float(spectrum.sum())
    for n_lead in range(GROUP, k // 2 + 1, GROUP):
        if spectrum[:n_lead].sum() >= LEAD_SHARE * total:
            return n_lead
    return k


def _blocks(model: FactorModel, rotation: Matrix64, norms: Vector64, order: Rows, n_lead: int) -> Arrays:
    n, k = order.size, model.n_factors
    n_groups = -(-n // ITEMS_OF_GROUP)
    n_blocks = n_groups * BLOCKS_OF_GROUP
    lead_groups, tail_groups = -(-min(n_lead, k) // GROUP), -(-max(k - n_lead, 0) // GROUP)
    arrays: Arrays = {
        "order": np.full(n_blocks * LANES, -1, np.int32),
        "lead": _aligned_bytes(n_blocks, lead_groups),
        "tail": _aligned_bytes(n_blocks, tail_groups),
        "lines": np.zeros((n_blocks, N_LINES, LANES), np.float32),
        "of_block": np.zeros((n_blocks, N_OF_BLOCK), np.float32),
        "of_group": np.zeros((n_groups, 2), np.float32),
    }
    arrays["order"][:n] = order
    for some in _slices(n_blocks * LANES):
        part = _Part.of(model, rotation, norms, arrays["order"][some], n_lead)
        blocks = slice(some.start // LANES, some.stop // LANES)
        _fill(arrays, part, blocks, slack_of(k))
    return arrays


@dataclass(frozen=True, slots=True)
class _Part:
    """Items of a stretch of whole groups, in their order; where there is none, one that nobody can want."""

    numbers: npt.NDArray[np.int8]
    n_lead: int
    scale: Vector32
    lead_error: Vector64
    error: Vector64
    rest: Vector64
    norms: Vector64
    bias: Vector32

    @classmethod
    def of(cls, model: FactorModel, rotation: Matrix64, norms: Vector64, order: Rows, n_lead: int) -> _Part:
        is_there = order >= 0
        turned = np.zeros((order.size, model.n_factors))
        turned[is_there] = model.item_factors[order[is_there]].astype(np.float64) @ rotation
        scale = (np.abs(turned).max(axis=1) / 127).astype(np.float32)
        unit = np.where(scale > 0, scale, 1).astype(np.float64)[:, None]
        numbers = np.clip(np.rint(turned / unit), -127, 127)
        errors = turned - numbers * unit
        return cls(
            numbers.astype(np.int8),
            n_lead,
            unit[:, 0].astype(np.float32),
            np.linalg.norm(errors[:, :n_lead], axis=1),
            np.linalg.norm(errors, axis=1),
            np.linalg.norm(turned[:, n_lead:], axis=1),
            np.where(is_there, norms[order], 0.0),
            np.where(is_there, model.item_bias[order], -_NOBODY).astype(np.float32),
        )


def _fill(arrays: Arrays, part: _Part, blocks: slice, slack: float) -> None:
    lead, tail = part.numbers[:, : part.n_lead], part.numbers[:, part.n_lead :]
    for name, numbers in (("lead", lead), ("tail", tail)):
        arrays[name][blocks] = _in_groups(numbers, arrays[name].shape[1])
    for line, values in ((SCALE, part.scale), (REST, part.rest), (BIAS, part.bias), (LENGTH, part.norms)):
        arrays["lines"][blocks, line] = values.reshape(-1, LANES)
    bias_size = np.where(part.bias > -_NOBODY, np.abs(part.bias), 0.0).astype(np.float64)
    largest = (part.lead_error, part.error, part.norms, slack * bias_size)
    for column, values in zip((LEAD_ERROR, ERROR, NORM, BIAS_SLACK), largest, strict=True):
        arrays["of_block"][blocks, column] = values.reshape(-1, LANES).max(axis=1)
    groups = slice(blocks.start // BLOCKS_OF_GROUP, blocks.stop // BLOCKS_OF_GROUP)
    highest, longest = (each.reshape(-1, ITEMS_OF_GROUP).max(axis=1) for each in (part.bias, part.norms))
    arrays["of_group"][groups, 0] = highest + slack * bias_size.reshape(-1, ITEMS_OF_GROUP).max(axis=1)
    arrays["of_group"][groups, 1] = longest * (1 + 2 * slack)


def _in_groups(numbers: npt.NDArray[np.int8], n_groups: int) -> Bytes4:
    """[n, factors] as bytes without sign [n / 16, n_groups, 16, 4]; a factor too many is zero."""
    full = np.zeros((numbers.shape[0], n_groups * GROUP), np.int16)
    full[:, : numbers.shape[1]] = numbers
    return (
        (full + MIDDLE)
        .astype(np.uint8)
        .reshape(numbers.shape[0] // LANES, LANES, n_groups, GROUP)
        .transpose(0, 2, 1, 3)
    )


def _aligned_bytes(n_blocks: int, n_groups: int) -> Bytes4:
    size = n_blocks * n_groups * LANES * GROUP
    room = np.zeros(size + ALIGNMENT, np.uint8)
    skip = -room.ctypes.data % ALIGNMENT
    return room[skip : skip + size].reshape(n_blocks, n_groups, LANES, GROUP)


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
    n_blocks, lead, tail = n_groups * BLOCKS_OF_GROUP, mapping["lead"].shape[1], mapping["tail"].shape[1]
    expected: dict[str, tuple[int, ...]] = {
        "rotation": (k, k),
        "order": (n_blocks * LANES,),
        "lead": (n_blocks, lead, LANES, GROUP),
        "tail": (n_blocks, tail, LANES, GROUP),
        "lines": (n_blocks, N_LINES, LANES),
        "of_block": (n_blocks, N_OF_BLOCK),
        "of_group": (n_groups, 2),
    }
    for name, shape in expected.items():
        if mapping[name].shape != shape:
            raise InvalidArray(name, f"must have shape {shape}, not {mapping[name].shape}")
    if GROUP * (lead + tail) < k or (tail and k <= GROUP * lead):
        raise InvalidArray("lead", f"and tail hold {lead} and {tail} groups; the model has {k} factors")
    for name in ("order", "wild"):
        refuse_rows_outside(mapping[name], model.n_items, name, unknown_allowed=True)
