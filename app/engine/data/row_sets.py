"""Sets of matrix rows as bits, combined 64 rows at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from app.engine.arrays import InvalidArray, Mask, Rows, refuse_rows_outside

Words = npt.NDArray[np.uint64]

_WORD = 64


class RowSet:
    """An immutable set of rows below `n_rows`. Row i is bit i % 64 of word i // 64, and bits beyond n_rows are zero."""

    def __init__(self, words: Words, n_rows: int) -> None:
        self.words = words
        self.n_rows = n_rows

    @classmethod
    def of(cls, rows: Rows, n_rows: int) -> RowSet:
        """These rows, in any order; -1 is ignored, other rows outside the range raise InvalidArray."""
        refuse_rows_outside(rows, n_rows, "rows", unknown_allowed=True)
        mask = np.zeros(n_rows, np.bool_)
        mask[rows[rows >= 0]] = True
        return cls.where(mask)

    @classmethod
    def where(cls, mask: Mask) -> RowSet:
        """The rows where the mask is true."""
        packed = np.packbits(mask, bitorder="little")
        words = np.zeros(-(-mask.size // _WORD), np.uint64)
        words.view(np.uint8)[: packed.size] = packed
        return cls(words, mask.size)

    @classmethod
    def full(cls, n_rows: int) -> RowSet:
        return cls.where(np.ones(n_rows, np.bool_))

    def rows(self) -> Rows:
        """The members, ascending."""
        bits = np.unpackbits(self.words.view(np.uint8), count=self.n_rows, bitorder="little")
        return np.flatnonzero(bits).astype(np.int32)

    def __and__(self, other: RowSet) -> RowSet:
        return RowSet(self.words & self._fitting(other), self.n_rows)

    def __or__(self, other: RowSet) -> RowSet:
        return RowSet(self.words | self._fitting(other), self.n_rows)

    def __sub__(self, other: RowSet) -> RowSet:
        return RowSet(self.words & ~self._fitting(other), self.n_rows)

    def _fitting(self, other: RowSet) -> Words:
        if other.n_rows != self.n_rows:
            raise InvalidArray("rows", f"are of {self.n_rows} and of {other.n_rows}")
        return other.words
