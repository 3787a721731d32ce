"""Lists that are the same for all users: items similar to others, and popular items."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple, Self

import numpy as np
from sqlalchemy import Connection, func, select

from app.db.revisions import revision
from app.db.tables import utc_now
from app.engine.arrays import Counts, Vector32
from app.engine.data.popularity import learned_shrinkage, shrunken_means
from app.engine.retrieval.brute_force import best_rows
from app.engine.retrieval.retriever import NO_ROWS, Query
from app.engine.retrieval.similarity import common_direction
from app.items import store as items
from app.ratings.models import Rating
from app.recommendations.context import RequestContext, WouldBlockEventLoop
from app.recommendations.response_json import list_json, numbers_json
from app.recommendations.schemas import ItemFilter
from app.recommendations.serving_model import DECIMALS, SHARE_OF_TIME, ServingModel

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
    rows, n = model.item_rows_of(keys.astype(np.int64)), max(float(sizes.sum()), 1.0)
    mean = float(sums.sum()) / n
    means = (sums / np.maximum(sizes, 1.0)).astype(np.float32)
    variance = max(float(squares.sum()) / n - mean**2, 0.0)
    shrinkage = learned_shrinkage(sizes.astype(np.int32), means, mean, variance)
    counts, shrunken = np.zeros(model.model.n_items, np.int32), np.full(model.model.n_items, np.nan, np.float32)
    counts[rows[rows >= 0]] = sizes[rows >= 0]
    shrunken[rows[rows >= 0]] = shrunken_means(sizes.astype(np.int32), means, mean, shrinkage)[rows >= 0]
    return Popularity(counts, shrunken, shrinkage)


def popular_items(
    context: RequestContext, recent: RecentPopularity, n: int, item_filter: ItemFilter, days: int | None
) -> bytes:
    """Items with the highest Bayesian mean rating, so that a single high rating does not win; as `PopularItemsOut`."""
    context.check_work(n_listed=n)
    if days is not None and context.is_on_loop:
        raise WouldBlockEventLoop
    model = context.serving_model
    popularity = Popularity.of(model) if days is None else recent.of(context.connection, model, days)
    among = context.view.among(replace(item_filter, min_ratings=0), popularity.counts)
    is_listed = popularity.counts >= item_filter.min_ratings
    scores = np.where(is_listed, popularity.means, np.nan).astype(np.float32)
    rows, means = best_rows(scores, n, candidates=None if among is None else among.rows())
    fields = {
        "model_version": model.version,
        "trained_through": model.trained_through,
        "source": "popular",
        "shrinkage": round(popularity.shrinkage, DECIMALS),
    }
    jsons = context.view.item_jsons(rows, context.connection_unless_away)
    counts = numbers_json(popularity.counts[rows].tolist())
    return list_json(fields, jsons, value=numbers_json(means.tolist()), n_ratings=counts)


def similar_items(context: RequestContext, item_id: str, n: int, item_filter: ItemFilter) -> bytes:
    """Items whose vectors point the same way, as `SimilarItemsOut`; none for an item that the model does not know."""
    return _similar(context, [item_id], n, item_filter, item_id=item_id)


def similar_to_several(context: RequestContext, item_ids: Sequence[str], n: int, item_filter: ItemFilter) -> bytes:
    """Items by their mean cosine with these, as `SimilarToSeveralOut`; seeds unknown to the model are ignored."""
    return _similar(context, item_ids, n, item_filter, item_ids=list(item_ids))


def _similar(
    context: RequestContext, seed_ids: Sequence[str], n: int, item_filter: ItemFilter, **seed: object
) -> bytes:
    context.check_work(n_listed=n)
    model = context.serving_model
    seeds = model.rows_of(seed_ids)
    for position in np.flatnonzero(seeds < 0).tolist():
        if not items.exists(context.connection, seed_ids[position]):
            raise items.UnknownItem(seed_ids[position])
    direction, length = common_direction(model.model, seeds)
    rows, cosines = NO_ROWS, np.zeros(0, np.float32)
    if length > 0:
        among = context.view.among(item_filter, model.model.item_counts)
        query = Query(direction, excluded=seeds)
        [(rows, cosines)] = model.retriever.search([query], n, among=among, cosine=True)
    fields = {
        "model_version": model.version,
        "trained_through": model.trained_through,
        "source": "means" if model.version is None else "item_vectors",
        **seed,
    }
    jsons = context.view.item_jsons(rows, context.connection_unless_away)
    return list_json(fields, jsons, similarity=numbers_json((cosines * np.float32(length)).tolist()))
