"""Lists of recommendations: for a stored user, for many at once, or for ratings in the request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, get_args

import anyio.to_thread
import numpy as np

from app.engine.arrays import Rows, Vector64
from app.engine.fold_in.explanation import explain, largest_shares
from app.engine.retrieval.by_interval import best_by_interval
from app.engine.retrieval.by_relevance import best_by_relevance
from app.engine.retrieval.diversity import POOL, diverse_order
from app.engine.retrieval.retriever import NO_ROWS, Query, RankedRows
from app.errors import BadInput, FieldError
from app.metrics.instruments import TOP_N_SECONDS, USERS_ANSWERED
from app.ratings import user_ratings
from app.ratings.user_ratings import NO_RATINGS
from app.recommendations.catalog import Column, Json
from app.recommendations.cursor import Cursor, invalid_cursor
from app.recommendations.dispatch import Recommender, RequestContext, WouldBlockEventLoop
from app.recommendations.schemas import ListRequest, Source
from app.recommendations.serving_model import DECIMALS, CachedUser, ModelUser
from app.settings import RatingScale

ANSWERED_FROM = {source: USERS_ANSWERED.labels(source) for source in (*get_args(Source), "cached")}
MAX_LISTS = 8
"""Lists cached of each user."""
USERS_AT_ONCE = 64
"""Users of a batch who are answered together."""


class UserList(NamedTuple):
    """A user and the best rows for them."""

    user_id: str
    user: ModelUser
    rows: Rows


def list_for_user(context: RequestContext, user_id: str, request: ListRequest) -> bytes:
    """The best items by the user's current ratings, as `RecommendationsOut`; an unknown user gets the prior's list.

    Later pages use the model and the vector of the first one. The list is cached, and so is the user.
    """
    cursor = Cursor.decoded(request.cursor, request) if request.cursor else None
    if cursor:
        context = context.at_version(cursor.version)
    model, n_skipped = context.serving_model, cursor.n_before if cursor else request.offset
    slot, stored = context.recommender.slot_of(user_id), context.current_ratings
    cached = slot.cached
    if cached and cached.serving_model is not model:
        cached = None
    if cached and (context.data_version is None or context.data_version != cached.data_version):
        state = stored.state if stored else user_ratings.read_state(context.connection, user_id)
        cached = cached if cached.state == state else None
    if cached is None:
        ratings = stored.ratings if stored else user_ratings.read_one(context.connection, user_id)
        if ratings is None:  # they were not read because they were cached, and the cache has dropped them meanwhile
            raise WouldBlockEventLoop
        context.check_work(request, ratings.values.size, n_skipped)
        cached = CachedUser(model, ratings.state, model.user_of(ratings))
        if cursor is None and model.version is not None:  # without a model every new rating changes all vectors
            slot.cached = cached
    else:
        view, body = cached.lists.get(request, (None, b""))
        if view is context.view:
            cached.data_version = context.data_version
            ANSWERED_FROM["cached"].inc()
            return body
        context.check_work(request, cached.user.values.size, n_skipped)
    cached.data_version = context.data_version
    body = _list(context, cached.user, request, cursor)
    if len(cached.lists) >= MAX_LISTS:
        cached.lists.clear()
    cached.lists[request] = context.view, body
    return body


def list_for_ratings(context: RequestContext, ratings: Sequence[tuple[str, float]], request: ListRequest) -> bytes:
    """The best items for somebody with these (item_id, value) ratings, which are not stored."""
    cursor = Cursor.decoded(request.cursor, request) if request.cursor else None
    if cursor:
        context = context.at_version(cursor.version)
    context.check_work(request, len(ratings), cursor.n_before if cursor else request.offset)
    model = context.serving_model
    _refuse_off_scale(ratings, model.scale)
    latest = dict(ratings)
    values = np.fromiter(latest.values(), np.float64, len(latest))
    user = model.user_of(replace(NO_RATINGS, values=values), model.rows_of(list(latest)))
    return _list(context, user, request, cursor)


def lists_for_users(context: RequestContext, user_ids: Sequence[str], request: ListRequest) -> list[UserList]:
    """The best items for each user; they share the query of ratings and the scan of the items."""
    stored = user_ratings.read_many(context.connection, set(user_ids))
    users = [context.serving_model.user_of(stored.get(user_id, NO_RATINGS)) for user_id in user_ids]
    ranked = rank(context, users, request, request.n)
    return list(map(UserList, user_ids, users, (rows for rows, _ in ranked)))


def _batch_lines(context: RequestContext, user_ids: Sequence[str], request: ListRequest) -> bytes:
    lists = lists_for_users(context, user_ids, request)
    lines = [_to_json(context, each.user, request, each.rows, user_id=each.user_id) for each in lists]
    return b"".join(line + b"\n" for line in lines)


async def batch(recommender: Recommender, user_ids: Sequence[str], request: ListRequest) -> AsyncIterator[bytes]:
    """Lines of JSON, one for each user: `RecommendationsOut` with `user_id` instead of `next_cursor`."""
    for first in range(0, len(user_ids), USERS_AT_ONCE):
        group = user_ids[first : first + USERS_AT_ONCE]
        yield await anyio.to_thread.run_sync(recommender.answer_in_thread, _batch_lines, group, request)


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
    among = context.view.among(request.filter, model.model.item_counts) if any(request.filter) else context.view.visible
    n_ranked = max(n, POOL) if request.diversity else n
    if request.rank_by == "value":
        means = [model.model.mean + user.vector.bias for user in users]
        queries = list(map(Query, (user.vector.factors for user in users), means, excluded))
        ranked: Sequence[RankedRows] = model.retriever.search(queries, n_ranked, candidates=candidates, among=among)
    else:
        if among is not None:
            candidates = among.rows() if candidates is None else np.intersect1d(candidates, among.rows())
        rank_one = partial(_rank_otherwise, context, request=request, n=n_ranked, candidates=candidates)
        ranked = [rank_one(user, excluded=rows) for user, rows in zip(users, excluded, strict=True)]
    return [_diverse(context, each, request.diversity, n) for each in ranked] if request.diversity else ranked


def _rank_otherwise(
    context: RequestContext, user: ModelUser, request: ListRequest, n: int, excluded: Rows, candidates: Rows | None
) -> RankedRows:
    """By relevance or by an end of the interval: every item is scored."""
    model, vector = context.serving_model, user.vector
    if request.rank_by == "relevance":
        rated = user.rated_rows
        return best_by_relevance(model.model, vector, n, rated=rated, excluded=excluded, candidates=candidates)
    assert request.rank_by != "value"
    end, level = request.rank_by, request.level
    return best_by_interval(model.fold_in, vector, n, end=end, level=level, excluded=excluded, candidates=candidates)


def _diverse(context: RequestContext, ranked: RankedRows, diversity: float, n: int) -> RankedRows:
    rows, scores = ranked
    factors = context.serving_model.model.item_factors[rows[:POOL]]
    order = diverse_order(scores[:POOL], factors, diversity, min(n, POOL))
    if n > POOL:
        order = np.append(order, np.arange(POOL, rows.size))
    return rows[order], scores[order]


def _list(context: RequestContext, user: ModelUser, request: ListRequest, cursor: Cursor | None) -> bytes:
    """The items from `offset` or the cursor on. Only an order by value has cursors, because they carry a vector."""
    with TOP_N_SECONDS.time():
        if cursor:
            vector = replace(user.vector, bias=cursor.bias, factors=cursor.factors)
            user = replace(user, vector=vector, source=cursor.source)
            rows, next_cursor = _page_after(context, cursor, user, request)
        else:
            version, end, next_cursor = context.serving_model.version, request.offset + request.n, None
            has_cursor = version is not None and request.rank_by == "value" and not request.diversity
            [(rows, scores)] = rank(context, [user], request, end + has_cursor)
            if version is not None and has_cursor and rows.size > end:
                score, row, vector = float(scores[end - 1]), int(rows[end - 1]), user.vector
                after = Cursor(version, user.source, end, score, row, vector.bias, vector.factors)
                next_cursor = after.encoded(request)
            rows = rows[request.offset : end]
    ANSWERED_FROM["popular" if user.source == "means" else user.source].inc()
    return _to_json(context, user, request, rows, next_cursor=next_cursor)


def _page_after(
    context: RequestContext, cursor: Cursor, user: ModelUser, request: ListRequest
) -> tuple[Rows, str | None]:
    """The items after the cursor's, in the order of its vector, and the next cursor; the context is of its version."""
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
        return rows[listed], None
    last = int(listed[-1])
    after = replace(cursor, n_before=last + 1, score=float(scores[last]), row=int(rows[last]))
    return rows[listed], after.encoded(request)


def _to_json(context: RequestContext, user: ModelUser, request: ListRequest, rows: Rows, **more: object) -> bytes:
    """A list as JSON; `more` are fields that only some lists have."""
    model = context.serving_model
    fields: dict[str, object] = {
        "model_version": model.version,
        "trained_through": model.trained_through,
        "level": request.level,
        "source": "popular" if user.source == "means" else user.source,
    }
    columns: dict[str, Column] = model.predict(user.vector, rows, request.level)._asdict()
    if request.n_reasons is not None:
        columns["explanation"] = _explanations_json(context, user, rows, request.n_reasons)
        fields["explained"] = "exactly" if model.model.loss.is_squared else "linearised"
    return context.view.list_json({**fields, **more}, rows, context.connection, columns)


_EXPLANATION = '{"score":%r,"prior":%r,"reasons":[%s],"other_ratings":%r,"residual":%r}'


def _explanations_json(context: RequestContext, user: ModelUser, rows: Rows, n_reasons: int) -> list[Json]:
    """`Explanation` of each row. Ratings of items outside the model have no row: `other_ratings` includes them."""
    explanation = explain(context.serving_model.fold_in, user.vector, rows, user.rated_rows, user.values)
    positions = largest_shares(explanation.shares, n_reasons, user.rated_rows >= 0)
    shares = explanation.shares[np.arange(rows.size)[:, None], positions]
    flat, n_each = positions.reshape(-1), positions.shape[1]
    columns: dict[str, Column] = {"rating": user.values[flat].tolist(), "share": _rounded(shares.reshape(-1))}
    each = context.view.items_json(user.rated_rows[flat], context.connection, columns)
    reasons = [",".join(each[first : first + n_each]) for first in range(0, n_each * rows.size, n_each or 1)]
    other_ratings = explanation.shares.sum(axis=1) - shares.sum(axis=1)
    parts = explanation.scores, explanation.prior, other_ratings, explanation.learned
    scores, priors, others, residuals = map(_rounded, parts)
    texts = zip(scores, priors, reasons or [""] * rows.size, others, residuals, strict=True)
    return list(map(_EXPLANATION.__mod__, texts))


def _rounded(numbers: Vector64) -> list[float]:
    rounded: list[float] = (numbers.round(DECIMALS) + 0.0).tolist()  # the sum turns -0.0 into 0.0
    return rounded


def _refuse_off_scale(ratings: Sequence[tuple[str, float]], scale: RatingScale) -> None:
    errors = [
        FieldError(field=f"ratings[{position}].value", message=complaint)
        for position, (_, value) in enumerate(ratings)
        if (complaint := scale.complaint(value))
    ]
    if errors:
        raise BadInput(f"{errors[0].field}: {errors[0].message}", errors)
