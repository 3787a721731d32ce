"""How popular the items of a model are: by all ratings, or by those of the last days."""

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
from app.engine.data.id_search import look_up
from app.engine.data.popularity import learned_shrinkage, shrunken_means
from app.ratings.models import Rating
from app.recommendations.serving_model import ServingModel
from app.recommendations.serving_models import SHARE_OF_TIME

MAX_WINDOWS = 8
"""Time windows whose means are cached."""
MAX_AGE = 60.0
"""Seconds after which a window has moved on enough to be counted again even if nobody has rated."""


class Popularity(NamedTuple):
    """Ratings of each row of a model, their Bayesian mean (NaN without any), and the shrinkage of those means."""

    counts: Counts
    means: Vector32
    shrinkage: float

    @classmethod
    def of(cls, model: ServingModel) -> Self:
        """By all ratings that the model was trained on."""
        return cls(model.model.item_counts, model.popularity, model.model.popularity_shrinkage)


class _Window(NamedTuple):
    """The popularity of one time window, and when it may, or must, be counted again."""

    model: ServingModel
    revision: int
    expires_at: float
    not_before: float
    popularity: Popularity

    def is_stale(self, newest: int) -> bool:
        now = time.monotonic()
        return now >= self.not_before and (self.revision != newest or now >= self.expires_at)


class RecentPopularity:
    """Popularity by the ratings of the last days, counted on request.

    Counting reads every rating of the window, and the time of all others. So it is repeated when ratings have changed,
    but for at most a twentieth of the time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._windows: OrderedDict[int, _Window] = OrderedDict()

    def of(self, connection: Connection, model: ServingModel, days: int) -> Popularity:
        newest = revision(connection, "ratings")
        with self._lock:
            window = self._windows.get(days)
            if window is None or window.model is not model or window.is_stale(newest):
                started = time.monotonic()
                popularity = _count(connection, model, days)
                finished = time.monotonic()
                not_before = finished + (finished - started) / SHARE_OF_TIME
                window = self._windows[days] = _Window(model, newest, finished + MAX_AGE, not_before, popularity)
            self._windows.move_to_end(days)
            if len(self._windows) > MAX_WINDOWS:
                self._windows.popitem(last=False)
            return window.popularity


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
