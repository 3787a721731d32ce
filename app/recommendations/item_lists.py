"""Lists that are the same for all users: items similar to others, and popular items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from app.engine.retrieval.brute_force import best_rows
from app.engine.retrieval.retriever import NO_ROWS, Query
from app.engine.retrieval.similarity import common_direction
from app.items import store as items
from app.recommendations.dispatch import RequestContext, WouldBlockEventLoop
from app.recommendations.popularity import Popularity
from app.recommendations.schemas import ItemFilter, ListRequest
from app.recommendations.serving_model import DECIMALS


def popular_items(context: RequestContext, n: int, item_filter: ItemFilter, days: int | None) -> bytes:
    """Items with the highest Bayesian mean rating, so that a single high rating does not win; as `PopularItemsOut`."""
    context.check_work(ListRequest(n))
    if days is not None and context.is_on_loop:
        raise WouldBlockEventLoop
    model, view = context.serving_model, context.view
    popularity = Popularity(model.model.item_counts, model.popularity, model.model.popularity_shrinkage)
    if days is not None:
        popularity = context.recommender.window_of(model, days).popularity(context.connection)
    among = view.among(item_filter._replace(min_ratings=0), popularity.counts)
    is_listed = popularity.counts >= item_filter.min_ratings
    scores = np.where(is_listed, popularity.means, np.nan).astype(np.float32)
    rows, means = best_rows(scores, n, candidates=None if among is None else among.rows())
    fields = {
        "model_version": model.version,
        "trained_through": model.trained_through,
        "source": "popular",
        "shrinkage": round(popularity.shrinkage, DECIMALS),
    }
    columns = {"value": means.tolist(), "n_ratings": popularity.counts[rows].tolist()}
    return view.list_json(fields, rows, context.connection, columns)


def similar_items(
    context: RequestContext, seed_ids: Sequence[str], n: int, item_filter: ItemFilter, seed: Mapping[str, object]
) -> bytes:
    """Items by their mean cosine with these, without those that the model does not know, and the fields `seed`."""
    context.check_work(ListRequest(n))
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
    columns = {"similarity": (cosines * np.float32(length)).tolist()}
    return context.view.list_json(fields, rows, context.connection, columns)
