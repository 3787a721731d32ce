"""Cursors of list pages: each page begins right after the last item of the previous one, in the same order.

A cursor carries what the list is ordered by: the model version, the user's vector as of the first page, and score and
row of the last item. So pages neither overlap nor shift, whatever is rated, hidden or trained meanwhile; items that may
no longer be listed are left out.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Self, get_args

import numpy as np

from app.engine.arrays import Vector32
from app.errors import BadInput
from app.recommendations.schemas import ListRequest, Source

_SOURCES: tuple[Source, ...] = get_args(Source)
_HEAD = struct.Struct("<IBIfid8s")
_MAX_VERSION = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page begins: after the item in this row with this score, the n_before-th of the list."""

    version: int
    source: Source
    n_before: int
    score: float
    row: int
    bias: float
    factors: Vector32

    @classmethod
    def decoded(cls, text: str, request: ListRequest) -> Self:
        """Raises BadInput for text that `encoded` never returned, or returned for a different list."""
        try:
            plain = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            version, source, n_before, score, row, bias, digest = _HEAD.unpack_from(plain)
            factors = np.frombuffer(plain, "<f4", offset=_HEAD.size).astype(np.float32)
        except (binascii.Error, ValueError, struct.error):
            raise invalid_cursor() from None
        is_finite = math.isfinite(score) and math.isfinite(bias) and bool(np.isfinite(factors).all())
        if not (is_finite and 1 <= version <= _MAX_VERSION and source < len(_SOURCES) and row >= 0):
            raise invalid_cursor()
        if digest != _digest_of(request) or request.offset:
            raise BadInput.at("cursor", "was issued for a list with other options")
        return cls(version, _SOURCES[source], n_before, score, row, bias, factors)

    def encoded(self, request: ListRequest) -> str:
        head = (self.version, _SOURCES.index(self.source), self.n_before, self.score, self.row, self.bias)
        plain = _HEAD.pack(*head, _digest_of(request)) + self.factors.astype("<f4").tobytes()
        return base64.urlsafe_b64encode(plain).decode().rstrip("=")


@lru_cache(maxsize=256)
def _digest_of(request: ListRequest) -> bytes:
    """Of the options that decide items and order; how many items, and what is said about them, may change."""
    items = request.filter, request.exclude, request.candidates, request.include_rated
    return blake2b(repr((*items, request.diversity, request.rank_by)).encode(), digest_size=8).digest()


def invalid_cursor() -> BadInput:
    return BadInput.at("cursor", "is not a valid cursor")
