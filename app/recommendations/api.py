"""Endpoints for predicted ratings, recommendations, similar and popular items."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from http import HTTPStatus
from typing import Annotated, Any, get_origin

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.datastructures import QueryParams

from app.db.tables import ID_LENGTH
from app.engine.fold_in.intervals import INTERVAL_LEVEL
from app.http.fast_path import fast_route
from app.http.ids import ItemIdPath, UserIdPath, complaint_about_id
from app.http.openapi import declared
from app.recommendations.dispatch import Recommender, RecommenderDep
from app.recommendations.item_lists import popular_items, similar_items
from app.recommendations.lists import batch, list_for_ratings, list_for_user
from app.recommendations.predictions import predict_pairs
from app.recommendations.schemas import (
    BatchIn,
    ListRequest,
    PopularItemsOut,
    PopularItemsQuery,
    PredictionsIn,
    PredictionsOut,
    RecommendationsIn,
    RecommendationsOut,
    RecommendationsQuery,
    SimilarItemsOut,
    SimilarItemsQuery,
    SimilarToSeveralIn,
    SimilarToSeveralOut,
    SinglePredictionOut,
)

MAX_CACHED_QUERIES = 1_000
MAX_CACHED_QUERY_BYTES = 1_000
"""Query strings that are parsed once: so many, and none that is longer."""

router = APIRouter(tags=["recommendations"])
similar_router = APIRouter(prefix="/items", tags=["recommendations"])

LevelQuery = Annotated[
    float,
    Query(ge=0.05, le=0.99, description="Share of ratings that the interval should contain; see docs/accuracy.md."),
]

NDJSON = "application/x-ndjson"
_LINE = (
    '{"model_version":3,"trained_through":100836,"source":"folded_in","level":0.8,"user_id":"ann","items":[{"item_id":'
    '"dune","title":"Dune","categories":["Sci-Fi"],"value":4.31,"lower":3.4,"upper":5.0}]}\n'
)
_ETAG = {"description": "Identifies this response body.", "schema": {"type": "string"}}
_REVALIDATED: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK.value: {"headers": {"ETag": _ETAG}},
    HTTPStatus.NOT_MODIFIED.value: {
        "description": "The response is the same as the one that If-None-Match identifies."
    },
}
_IF_NONE_MATCH = {
    "parameters": [
        {
            "name": "If-None-Match",
            "in": "header",
            "required": False,
            "description": "The ETag of an earlier response; if nothing has changed, the answer is 304 without a body.",
            "schema": {"type": "string"},
        }
    ]
}


@lru_cache(maxsize=MAX_CACHED_QUERIES)
def _parse_query(query_string: bytes) -> ListRequest | None:
    """What a query string requests; None if it is invalid."""
    params, values = QueryParams(query_string), dict[str, Any]()
    for name, field in RecommendationsQuery.model_fields.items():
        if each := params.getlist(name):
            values[name] = each if get_origin(field.annotation) is list else each[-1]
    try:
        return RecommendationsQuery.model_validate(values).list_request()
    except ValidationError:
        return None


async def _answer_list(_body: bytes, request: Request) -> Response | None:
    """The list of a user; None for FastAPI if the request is invalid or long."""
    user_id: str = request.path_params["user_id"]
    query_string: bytes = request.scope["query_string"]
    is_long = len(query_string) > MAX_CACHED_QUERY_BYTES or len(user_id) > ID_LENGTH
    if is_long or complaint_about_id(user_id):
        return None
    parsed = _parse_query(query_string)
    if parsed is None:
        return None
    recommender: Recommender = request.app.state.recommender
    body = await recommender.answer(list_for_user, user_id, parsed, reads_only_user=user_id)
    return _revalidated(body, request)


lists_router = APIRouter(prefix="/v1", tags=["recommendations"], route_class=fast_route(_answer_list))
"""Its routes are the application's own, which are found in one step; those of included routers take three."""


@lists_router.get(
    "/users/{user_id}/recommendations",
    operation_id="recommend",  # not from `create_app`: the routes of this router are not included by it
    response_model=RecommendationsOut,
    responses={**_REVALIDATED, **declared(HTTPStatus.CONFLICT)},
    openapi_extra=_IF_NONE_MATCH,
)
async def recommend(
    user_id: UserIdPath,
    query: Annotated[RecommendationsQuery, Query()],
    recommender: RecommenderDep,
    request: Request,
) -> Response:
    """The best items for a user, computed from the current ratings: the next response includes a rating posted now."""
    body = await recommender.answer(list_for_user, user_id, query.list_request(), reads_only_user=user_id)
    return _revalidated(body, request)


@router.get("/users/{user_id}/predictions/{item_id}")
async def predict(
    user_id: UserIdPath, item_id: ItemIdPath, recommender: RecommenderDep, level: LevelQuery = INTERVAL_LEVEL
) -> SinglePredictionOut:
    """Predict one user's rating of one item. Unknown users and items get a prediction too, with a wide interval."""
    answer = await recommender.answer(predict_pairs, [(user_id, item_id)], level)
    [prediction] = answer.predictions
    return SinglePredictionOut(**answer.model_dump(exclude={"predictions"}), **prediction.model_dump())


@router.post("/predictions")
async def predict_many(body: PredictionsIn, recommender: RecommenderDep) -> PredictionsOut:
    """Predict up to 10,000 ratings at once; predictions are returned in the order of the pairs."""
    pairs = [(pair.user_id, pair.item_id) for pair in body.pairs]
    return await recommender.answer(predict_pairs, pairs, body.level)


@router.post("/recommendations", response_model=RecommendationsOut, responses=declared(HTTPStatus.CONFLICT))
async def recommend_for_ratings(body: RecommendationsIn, recommender: RecommenderDep) -> Response:
    """The best items for the ratings in the body: for anonymous visitors and what-if analyses. Nothing is stored."""
    ratings = [(rating.item_id, rating.value) for rating in body.ratings]
    return _json(await recommender.answer(list_for_ratings, ratings, body.list_request()))


@router.post(
    "/recommendations/batch",
    response_class=StreamingResponse,
    responses={
        HTTPStatus.OK.value: {
            "description": (
                "One line for each user, in order: `RecommendationsOut` with `user_id` instead of `next_cursor`."
            ),
            "content": {NDJSON: {"schema": {"type": "string"}, "example": _LINE}},
        }
    },
)
async def recommend_in_batch(body: BatchIn, recommender: RecommenderDep) -> StreamingResponse:
    """The best items for many users, as a stream of lines: for mail campaigns, caches and exports.

    Users are processed in groups that share one query for their ratings and one scan of the items. If a version is
    activated meanwhile, it is used from the next group on; each line contains its version.
    """
    return StreamingResponse(batch(recommender, body.user_ids, body.list_request()), media_type=NDJSON)


@similar_router.get("/popular", response_model=PopularItemsOut, responses=_REVALIDATED, openapi_extra=_IF_NONE_MATCH)
async def list_popular_items(
    query: Annotated[PopularItemsQuery, Query()], recommender: RecommenderDep, request: Request
) -> Response:
    """The items with the highest Bayesian mean rating, overall or over the last days."""
    return _revalidated(await recommender.answer(popular_items, query.n, query.filter(), query.days), request)


@similar_router.post("/similar", response_model=SimilarToSeveralOut, responses=declared(HTTPStatus.NOT_FOUND))
async def list_items_similar_to_several(body: SimilarToSeveralIn, recommender: RecommenderDep) -> Response:
    """The items whose vectors have the highest mean cosine with those of several items."""
    seed = {"item_ids": body.item_ids}
    return _json(await recommender.answer(similar_items, body.item_ids, body.n, body.filter(), seed))


@similar_router.get(
    "/{item_id}/similar",
    response_model=SimilarItemsOut,
    responses={**_REVALIDATED, **declared(HTTPStatus.NOT_FOUND)},
    openapi_extra=_IF_NONE_MATCH,
)
async def list_similar_items(
    item_id: ItemIdPath,
    query: Annotated[SimilarItemsQuery, Query()],
    recommender: RecommenderDep,
    request: Request,
) -> Response:
    """The items whose vectors have the highest cosine with the item's; an item too new for the model has none yet."""
    seed = {"item_id": item_id}
    return _revalidated(await recommender.answer(similar_items, [item_id], query.n, query.filter(), seed), request)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _revalidated(body: bytes, request: Request) -> Response:
    """The answer, or 304 if the client already has it (RFC 9110, section 13.1.2)."""
    etag = f'"{blake2b(body, digest_size=12).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if condition := request.headers.get("if-none-match"):
        etags = {each.strip().removeprefix("W/") for each in condition.split(",")}
        if etag in etags or "*" in etags:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(body, headers=headers, media_type="application/json")
