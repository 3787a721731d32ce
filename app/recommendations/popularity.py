"""How popular the items of a model are by the ratings of the last days, and when such counts are repeated."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from sqlalchemy import Connection, func, select

from app.db.revisions import revision
from app.db.tables import utc_now
from app.engine.arrays import Counts, Vector32
from app.engine.data.id_search import look_up
from app.engine.data.popularity import learned_shrinkage, shrunken_means
from app.ratings.models import Rating
from app.recommendations.serving_model import ServingModel

SHARE_OF_TIME = 0.05
"""Largest share of a process's time that computing one value from all ratings may take."""
MAX_WINDOWS = 8
"""Time windows whose means are cached."""
MAX_AGE = 60.0
"""Seconds after which a window has moved on enough to be counted again even if nobody has rated."""

T = TypeVar("T")


class FromAllRatings(Generic[T]):
    """A value that is computed from all ratings, again when they have changed or after `max_age` seconds.

    Computing it takes long if there are many ratings. So it is repeated for at most a twentieth of the time, and the
    value may lag behind.
    """

    def __init__(self, max_age: float = math.inf) -> None:
        self._max_age = max_age
        self._lock = threading.Lock()
        self._value: T | None = None
        self._revision = 0
        self._not_before = self._expires_at = 0.0

    def current(self, newest: int, compute: Callable[[], T]) -> T:
        """The value as of the newest revision, or a little older."""
        with self._lock:
            started = time.monotonic()
            is_stale = newest != self._revision or started >= self._expires_at
            if self._value is None or (is_stale and started >= self._not_before):
                self._value, self._revision = compute(), newest
                finished = time.monotonic()
                self._expires_at = finished + self._max_age
                self._not_before = finished + (finished - started) / SHARE_OF_TIME
            return self._value


class Popularity(NamedTuple):
    """Ratings of each row of a model, their Bayesian mean (NaN without any), and the shrinkage of those means."""

    counts: Counts
    means: Vector32
    shrinkage: float


@dataclass(frozen=True, slots=True)
class Window:
    """The last days, and the popularity of a model's items by their ratings."""

    model: ServingModel
    days: int
    _counted: FromAllRatings[Popularity] = field(default_factory=lambda: FromAllRatings(MAX_AGE))

    def popularity(self, connection: Connection) -> Popularity:
        """Reads every rating of the window, and the time of all others, unless it was counted before."""
        newest = revision(connection, "ratings")
        return self._counted.current(newest, lambda: _count(connection, self.model, self.days))


def _count(connection: Connection, model: ServingModel, days: int) -> Popularity:
    by_item = connection.execute(
        select(Rating.item_key, func.count(), func.sum(Rating.value), func.sum(Rating.value * Rating.value))
        .where(Rating.rated_at >= utc_now() - timedelta(days=days))
        .group_by(Rating.item_key)
    ).all()
    keys, sizes, sums, squares = (np.array([row[column] for row in by_item], np.float64) for column in range(4))
    rows, n = look_up(model.item_row_of_key, keys.astype(np.int64)), max(float(sizes.sum()), 1.0)
    mean = float(sums.sum()) / n
    means = (sums / np.maximum(sizes, 1.0)).astype(np.float32)
    variance = max(float(squares.sum()) / n - mean**2, 0.0)
    shrinkage = learned_shrinkage(sizes.astype(np.int32), means, mean, variance)
    counts, shrunken = np.zeros(model.model.n_items, np.int32), np.full(model.model.n_items, np.nan, np.float32)
    counts[rows[rows >= 0]] = sizes[rows >= 0]
    shrunken[rows[rows >= 0]] = shrunken_means(sizes.astype(np.int32), means, mean, shrinkage)[rows >= 0]
    return Popularity(counts, shrunken, shrinkage)
