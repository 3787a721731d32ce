"""Pages of a list: each begins right after the last item of the one before, in the same order.

A cursor carries what the list is ordered by: the model version, the user's vector as it was for the first page, and
score and row of the last item. So pages neither overlap nor shift, whatever is rated, hidden or trained meanwhile;
items that may not be listed any more are left out.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple, Self, get_args

import numpy as np

from app.engine.arrays import Rows, Vector32
from app.engine.fold_in.user import UserVector
from app.errors import BadInput, Conflict
from app.recommendations.context import Moment, RatedItems
from app.recommendations.schemas import Source, Wish

_SOURCES: tuple[Source, ...] = get_args(Source)
_HEAD = struct.Struct("<IBIfid8s")
_MOST_VERSIONS = 2**31 - 1


class PagesGone(Conflict):
    """The version that the first page was made with is not kept any more."""

    def __init__(self, version: int) -> None:
        super().__init__(f"this list was made with version {version}, which is gone; begin again without a cursor")
        self.version = version


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
    def decoded(cls, text: str, wish: Wish) -> Self:
        """Raises BadInput for text that `encoded` never made, or made for another wish."""
        try:
            plain = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            version, source, n_before, score, row, bias, digest = _HEAD.unpack_from(plain)
            factors = np.frombuffer(plain, "<f4", offset=_HEAD.size).astype(np.float32)
        except (binascii.Error, ValueError, struct.error):
            raise _not_ours() from None
        is_sound = math.isfinite(score) and math.isfinite(bias) and bool(np.isfinite(factors).all())
        if not (is_sound and 1 <= version <= _MOST_VERSIONS and source < len(_SOURCES) and row >= 0):
            raise _not_ours()
        if digest != _digest_of(wish) or wish.offset:
            raise BadInput.at("cursor", "belongs to a list that was asked for differently")
        return cls(version, _SOURCES[source], n_before, score, row, bias, factors)

    def encoded(self, wish: Wish) -> str:
        head = (self.version, _SOURCES.index(self.source), self.n_before, self.score, self.row, self.bias)
        plain = _HEAD.pack(*head, _digest_of(wish)) + self.factors.astype("<f4").tobytes()
        return base64.urlsafe_b64encode(plain).decode().rstrip("=")


class Page(NamedTuple):
    """Rows of a page, best first, and the cursor of the next one, where there is one."""

    rows: Rows
    next_cursor: str | None


def first_page(moment: Moment, user: UserVector, rated: RatedItems, wish: Wish, source: Source) -> Page:
    """The items from `offset` on."""
    last = wish.offset + wish.n
    if moment.served.version is None or wish.rank_by != "value" or wish.diversity:  # no order that a vector alone gives
        rows, _ = moment.best_for(user, rated, wish, last)
        return Page(rows[wish.offset :], None)
    rows, scores = moment.best_for(user, rated, wish, last + 1)
    listed = rows[wish.offset : last]
    if rows.size <= last:
        return Page(listed, None)
    score, row = float(scores[last - 1]), int(rows[last - 1])
    cursor = Cursor(moment.served.version, source, last, score, row, user.bias, user.factors)
    return Page(listed, cursor.encoded(wish))


def page_after(moment: Moment, cursor: Cursor, user: UserVector, rated: RatedItems, wish: Wish) -> Page:
    """The items after the cursor's, in its user's order; `moment` is one of its version."""
    if cursor.factors.size != moment.served.model.n_factors:
        raise _not_ours()
    n = cursor.n_before + wish.n + 1
    while True:
        rows, scores = moment.best_for(user, rated, wish, n)
        is_after = (scores < cursor.score) | ((scores == cursor.score) & (rows > cursor.row))
        places = np.flatnonzero(is_after)
        if places.size > wish.n or rows.size < n:
            break
        n *= 2  # items before the cursor have come to be listed
    listed = places[: wish.n]
    if places.size <= wish.n:
        return Page(rows[listed], None)
    last = int(listed[-1])
    score, row = float(scores[last]), int(rows[last])
    after = Cursor(cursor.version, cursor.source, last + 1, score, row, cursor.bias, cursor.factors)
    return Page(rows[listed], after.encoded(wish))


@lru_cache(maxsize=256)
def _digest_of(wish: Wish) -> bytes:
    """Of what decides which items a list holds and in which order; how many, and what is told of them, may change."""
    asked = (wish.filter, wish.exclude, wish.candidates, wish.include_rated, wish.diversity, wish.rank_by)
    return blake2b(repr(asked).encode(), digest_size=8).digest()


def _not_ours() -> BadInput:
    return BadInput.at("cursor", "is not a cursor that this service gave out")
