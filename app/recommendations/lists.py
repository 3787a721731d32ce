"""Lists of recommendations: for a stored user, for many at once, or for ratings in the request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, get_args

import numpy as np

from app.engine.arrays import Rows
from app.engine.retrieval.by_interval import best_by_interval
from app.engine.retrieval.by_relevance import best_by_relevance
from app.engine.retrieval.diversity import POOL, diverse_order
from app.engine.retrieval.retriever import NO_ROWS, Query, RankedRows
from app.errors import BadInput, FieldError
from app.metrics.instruments import TOP_N_SECONDS, USERS_ANSWERED
from app.ratings import user_ratings
from app.recommendations.context import RequestContext
from app.recommendations.cursor import Cursor, invalid_cursor
from app.recommendations.response_json import explanations_json, list_json, numbers_json
from app.recommendations.schemas import ListRequest, Source
from app.recommendations.serving_model import ModelUser
from app.recommendations.user_cache import CachedUser, UserCache
from app.settings import RatingScale

ANSWERED_FROM = {source: USERS_ANSWERED.labels(source) for source in (*get_args(Source), "cached")}


class Page(NamedTuple):
    """Rows of a page, best first, and the cursor of the next page if there is one."""

    rows: Rows
    next_cursor: str | None


class UserList(NamedTuple):
    """A user and the best rows for them."""

    user_id: str
    user: ModelUser
    rows: Rows


def list_for_user(context: RequestContext, users: UserCache, user_id: str, request: ListRequest) -> bytes:
    """The best items by the user's current ratings, as `RecommendationsOut`; an unknown user gets the prior's list.

    Later pages use the model and the vector of the first one.
    """
    cursor = Cursor.decoded(request.cursor, request) if request.cursor else None
    if cursor:
        context = context.at_version(cursor.version)
    cached = _current_user(context, users, user_id, request, cursor)
    lists = cached.lists_at(context.view, context.data_version)
    body = lists.get(request)
    if body is None:
        body = lists[request] = _list(context, cached.user, request, cursor)
    else:
        ANSWERED_FROM["cached"].inc()
    return body


def list_for_ratings(context: RequestContext, given: Sequence[tuple[str, float]], request: ListRequest) -> bytes:
    """The best items for somebody with these (item_id, value) ratings, which are not stored."""
    cursor = Cursor.decoded(request.cursor, request) if request.cursor else None
    if cursor:
        context = context.at_version(cursor.version)
    context.check_list_work(request, cursor.n_before if cursor else request.offset, len(given))
    model = context.serving_model
    _refuse_off_scale(given, model.scale)
    latest = dict(given)
    user = model.fold_in_user(model.rows_of(list(latest)), np.fromiter(latest.values(), np.float64, len(latest)))
    return _list(context, user, request, cursor)


def lists_for_users(context: RequestContext, user_ids: Sequence[str], request: ListRequest) -> list[UserList]:
    """The best items for each user; they share the query of ratings and the scan of the items."""
    stored = user_ratings.read_many(context.connection, set(user_ids))
    users = [context.serving_model.user_of(stored.get(user_id, user_ratings.NO_RATINGS)) for user_id in user_ids]
    ranked = rank(context, users, request, request.n)
    return list(map(UserList, user_ids, users, (rows for rows, _ in ranked)))


def batch_lines(context: RequestContext, user_ids: Sequence[str], request: ListRequest) -> bytes:
    """One line of JSON for each user: `RecommendationsOut` with `user_id` instead of `next_cursor`."""
    lists = lists_for_users(context, user_ids, request)
    lines = [_to_json(context, each.user, request, each.rows, user_id=each.user_id) for each in lists]
    return b"".join(line + b"\n" for line in lines)


def rank(context: RequestContext, users: Sequence[ModelUser], request: ListRequest, n: int) -> Sequence[RankedRows]:
    """The n best rows for each user, from the very first on, and their scores; users share one scan of the items."""
    model = context.serving_model
    exclude = model.rows_of(request.exclude) if request.exclude else NO_ROWS
    if request.include_rated:
        excluded = [exclude] * len(users)
    else:
        rated = (user.rated_rows for user in users)
        excluded = [np.concatenate([exclude, rows]) if exclude.size else rows for rows in rated]
    candidates = None if request.candidates is None else model.rows_of(request.candidates)
    among = context.view.among(request.filter, model.model.item_counts)
    n_ranked = max(n, POOL) if request.diversity else n
    if request.rank_by == "value":
        means = [model.model.mean + user.vector.bias for user in users]
        queries = list(map(Query, (user.vector.factors for user in users), means, excluded))
        ranked: Sequence[RankedRows] = model.retriever.search(queries, n_ranked, candidates=candidates, among=among)
    else:
        if among is not None:
            candidates = among.rows() if candidates is None else np.intersect1d(candidates, among.rows())
        ranked = _rank_otherwise(context, users, request, n_ranked, excluded, candidates)
    return [_diverse(context, each, request.diversity, n) for each in ranked] if request.diversity else ranked


def _rank_otherwise(
    context: RequestContext,
    users: Sequence[ModelUser],
    request: ListRequest,
    n: int,
    excluded: Sequence[Rows],
    candidates: Rows | None,
) -> list[RankedRows]:
    """By relevance or by an end of the interval: every item is scored, for one user after the other."""
    model, pairs = context.serving_model, zip(users, excluded, strict=True)
    if request.rank_by == "relevance":
        by_relevance = partial(best_by_relevance, model.model, n=n, candidates=candidates)
        return [by_relevance(user.vector, rated=user.rated_rows, excluded=rows) for user, rows in pairs]
    assert request.rank_by != "value"
    by_interval = partial(best_by_interval, model.fold_in, n=n, end=request.rank_by, candidates=candidates)
    return [by_interval(user.vector, level=request.level, excluded=rows) for user, rows in pairs]


def _diverse(context: RequestContext, ranked: RankedRows, diversity: float, n: int) -> RankedRows:
    rows, scores = ranked
    factors = context.serving_model.model.item_factors[rows[:POOL]]
    order = diverse_order(scores[:POOL], factors, diversity, min(n, POOL))
    if n > POOL:
        order = np.append(order, np.arange(POOL, rows.size))
    return rows[order], scores[order]


def _current_user(
    context: RequestContext, users: UserCache, user_id: str, request: ListRequest, cursor: Cursor | None
) -> CachedUser:
    """The user with the current ratings: the cached one if they have not changed."""
    model, n_skipped = context.serving_model, cursor.n_before if cursor else request.offset
    cached = users.get(user_id, model)
    if cached is not None and (cached.is_current(context.data_version) or context.read_state(user_id) == cached.state):
        context.check_list_work(request, n_skipped, cached.user.values.size)
        return cached
    ratings = context.read_ratings(user_id)
    context.check_list_work(request, n_skipped, ratings.values.size)
    current = CachedUser(model, ratings.state, model.user_of(ratings))
    if cursor is None and model.version is not None:  # without a model every new rating changes all vectors
        users.put(user_id, current)
    return current


def _list(context: RequestContext, user: ModelUser, request: ListRequest, cursor: Cursor | None) -> bytes:
    with TOP_N_SECONDS.time():
        if cursor is None:
            page = _first_page(context, user, request)
        else:
            vector = replace(user.vector, bias=cursor.bias, factors=cursor.factors)
            user = replace(user, vector=vector, source=cursor.source)
            page = _page_after(context, cursor, user, request)
    ANSWERED_FROM["popular" if user.source == "means" else user.source].inc()
    return _to_json(context, user, request, page.rows, next_cursor=page.next_cursor)


def _first_page(context: RequestContext, user: ModelUser, request: ListRequest) -> Page:
    """The items from `offset` on. Only the order by value is that of a vector, which a cursor can carry."""
    version, end = context.serving_model.version, request.offset + request.n
    has_cursor = version is not None and request.rank_by == "value" and not request.diversity
    [(rows, scores)] = rank(context, [user], request, end + 1 if has_cursor else end)
    listed = rows[request.offset : end]
    if version is None or not has_cursor or rows.size <= end:
        return Page(listed, None)
    score, row, vector = float(scores[end - 1]), int(rows[end - 1]), user.vector
    cursor = Cursor(version, user.source, end, score, row, vector.bias, vector.factors)
    return Page(listed, cursor.encoded(request))


def _page_after(context: RequestContext, cursor: Cursor, user: ModelUser, request: ListRequest) -> Page:
    """The items after the cursor's, in the order of its vector; the context is that of its version."""
    if cursor.factors.size != context.serving_model.model.n_factors:
        raise invalid_cursor()
    n = cursor.n_before + request.n + 1
    while True:
        [(rows, scores)] = rank(context, [user], request, n)
        is_after = (scores < cursor.score) | ((scores == cursor.score) & (rows > cursor.row))
        positions = np.flatnonzero(is_after)
        if positions.size > request.n or rows.size < n:
            break
        n *= 2  # more items before the cursor may be listed now
    listed = positions[: request.n]
    if positions.size <= request.n:
        return Page(rows[listed], None)
    last = int(listed[-1])
    after = replace(cursor, n_before=last + 1, score=float(scores[last]), row=int(rows[last]))
    return Page(rows[listed], after.encoded(request))


def _to_json(context: RequestContext, user: ModelUser, request: ListRequest, rows: Rows, **more: object) -> bytes:
    """A list as JSON; `more` are fields that only some lists have."""
    model = context.serving_model
    predicted = model.predict(user.vector, rows, request.level)
    columns = dict(zip(predicted._fields, map(numbers_json, predicted), strict=True))
    fields: dict[str, object] = {
        "model_version": model.version,
        "trained_through": model.trained_through,
        "level": request.level,
        "source": "popular" if user.source == "means" else user.source,
    }
    if request.n_reasons is not None:
        columns["explanation"] = explanations_json(context, user, rows, request.n_reasons)
        fields["explained"] = "exactly" if model.model.loss.is_squared else "linearised"
    items = context.view.item_jsons(rows, context.connection_unless_away)
    return list_json({**fields, **more}, items, **columns)


def _refuse_off_scale(given: Sequence[tuple[str, float]], scale: RatingScale) -> None:
    errors = [
        FieldError(field=f"ratings[{position}].value", message=complaint)
        for position, (_, value) in enumerate(given)
        if (complaint := scale.complaint(value))
    ]
    if errors:
        raise BadInput(f"{errors[0].field}: {errors[0].message}", errors)
