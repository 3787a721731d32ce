"""How items are liked by everybody: of all time, as the model counted them, or of the last days."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from datetime import timedelta
from typing import NamedTuple, Self

import numpy as np
from sqlalchemy import Connection, func, select

from app.db.revisions import revision
from app.db.tables import utc_now
from app.engine.arrays import Counts, Vector32
from app.engine.data.popularity import learned_shrinkage, shrunken_means
from app.ratings.models import Rating
from app.recommendations.serving_model import SHARE_OF_TIME, ServedModel

MAX_WINDOWS = 8
"""Windows of time whose means are kept."""
_FRESH = 60.0
"""Seconds after which a window has moved on enough to be counted anew, though nobody has rated."""


class Popularity(NamedTuple):
    """Ratings of each row of a model, their Bayesian mean (NaN without any), and the shrinkage of those means."""

    counts: Counts
    means: Vector32
    shrinkage: float

    @classmethod
    def of(cls, served: ServedModel) -> Self:
        """By all ratings that the model has learned."""
        return cls(served.model.item_counts, served.popularity, served.model.popularity_shrinkage)


class _Counted(NamedTuple):
    """What was counted, when it may be told again, and of which ratings it is."""

    served: ServedModel
    revision: int
    fresh_until: float
    not_before: float
    popularity: Popularity


class RecentPopularity:
    """Popularity by the ratings of the last days, counted when it is asked for.

    Counting reads every rating of the window, and of the others the time: so it is done again when something was rated,
    but for at most a twentieth of the time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._windows: OrderedDict[int, _Counted] = OrderedDict()

    def of(self, connection: Connection, served: ServedModel, days: int) -> Popularity:
        newest = revision(connection, "ratings")
        with self._lock:
            known = self._windows.get(days)
            if known is None or known.served is not served or self._is_old(known, newest):
                started = time.monotonic()
                popularity = _counted(connection, served, days)
                finished = time.monotonic()
                not_before = finished + (finished - started) / SHARE_OF_TIME
                known = _Counted(served, newest, finished + _FRESH, not_before, popularity)
                self._windows[days] = known
            self._windows.move_to_end(days)
            if len(self._windows) > MAX_WINDOWS:
                self._windows.popitem(last=False)
            return known.popularity

    def _is_old(self, known: _Counted, newest: int) -> bool:
        now = time.monotonic()
        return now >= known.not_before and (known.revision != newest or now >= known.fresh_until)


def _counted(connection: Connection, served: ServedModel, days: int) -> Popularity:
    found = connection.execute(
        select(Rating.item_key, func.count(), func.sum(Rating.value), func.sum(Rating.value * Rating.value))
        .where(Rating.rated_at >= utc_now() - timedelta(days=days))
        .group_by(Rating.item_key)
    ).all()
    keys, sizes, sums, squares = (np.array([row[column] for row in found], np.float64) for column in range(4))
    rows, n = served.item_rows_of(keys.astype(np.int64)), max(float(sizes.sum()), 1.0)
    mean = float(sums.sum()) / n
    means = (sums / np.maximum(sizes, 1.0)).astype(np.float32)
    variance = max(float(squares.sum()) / n - mean**2, 0.0)
    shrinkage = learned_shrinkage(sizes.astype(np.int32), means, mean, variance)
    counts, shrunken = np.zeros(served.model.n_items, np.int32), np.full(served.model.n_items, np.nan, np.float32)
    counts[rows[rows >= 0]] = sizes[rows >= 0]
    shrunken[rows[rows >= 0]] = shrunken_means(sizes.astype(np.int32), means, mean, shrinkage)[rows >= 0]
    return Popularity(counts, shrunken, shrinkage)
