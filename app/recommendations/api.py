"""Endpoints for predicted ratings, recommendations, similar and popular items."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from app.engine.fold_in.intervals import INTERVAL_LEVEL
from app.http.ids import ItemIdPath, UserIdPath, complaint_about_id
from app.http.openapi import declared
from app.recommendations.dispatch import RecommenderDep
from app.recommendations.query import WishDep, known_wish, query_parameters
from app.recommendations.response_json import etag_of
from app.recommendations.schemas import (
    BatchIn,
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


class ListRoute(APIRoute):
    """Answers what it has been asked before without FastAPI, whose reading of a request takes as long as the answer.

    Anything else goes FastAPI's way, which reads the query, remembers it, or says what is wrong with it.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        wish, user_id = known_wish(scope["query_string"]), scope["path_params"]["user_id"]
        if wish is None or scope["method"] != "GET" or complaint_about_id(user_id):
            await super().handle(scope, receive, send)
            return
        answer = await recommend(user_id, wish, scope["app"].state.recommender, Request(scope))
        await answer(scope, receive, send)


lists_router = APIRouter(prefix="/v1", tags=["recommendations"], route_class=ListRoute)
"""Its routes become the application's own, found in one step; those of a router that is included are found in three."""
router = APIRouter(tags=["recommendations"])
similar_router = APIRouter(prefix="/items", tags=["recommendations"])

LevelQuery = Annotated[
    float, Query(ge=0.05, le=0.99, description="Share of ratings that the interval is to hold; see docs/accuracy.md.")
]

NDJSON = "application/x-ndjson"
_LINE = (
    '{"model_version":3,"trained_through":100836,"source":"folded_in","level":0.8,"user_id":"ann","items":[{"item_id":'
    '"dune","title":"Dune","categories":["Sci-Fi"],"value":4.31,"lower":3.4,"upper":5.0}]}\n'
)
_ETAG = {"description": "Names these very bytes.", "schema": {"type": "string"}}
_REVALIDATED: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK.value: {"headers": {"ETag": _ETAG}},
    HTTPStatus.NOT_MODIFIED.value: {"description": "The answer is still the one named by If-None-Match."},
}
_IF_NONE_MATCH = {
    "parameters": [
        {
            "name": "If-None-Match",
            "in": "header",
            "required": False,
            "description": "The ETag of an earlier answer: if it is still right, 304 comes back without a body.",
            "schema": {"type": "string"},
        }
    ]
}


@lists_router.get(
    "/users/{user_id}/recommendations",
    operation_id="recommend",
    response_model=RecommendationsOut,
    responses={**_REVALIDATED, **declared(HTTPStatus.CONFLICT)},
    openapi_extra={"parameters": query_parameters(RecommendationsQuery) + _IF_NONE_MATCH["parameters"]},
)
async def recommend(
    user_id: UserIdPath,
    wish: WishDep,
    recommender: RecommenderDep,
    request: Request,
) -> Response:
    """The best items for a user by the ratings of this moment: a rating posted now counts in the next answer."""
    return _revalidated(await recommender.list_for_user(user_id, wish), request)


@router.get("/users/{user_id}/predictions/{item_id}")
async def predict(
    user_id: UserIdPath, item_id: ItemIdPath, recommender: RecommenderDep, level: LevelQuery = INTERVAL_LEVEL
) -> SinglePredictionOut:
    """Predict one user's rating of one item. Unknown users and items get an answer too, with a wide interval."""
    answer = await recommender.answer(recommender.predictions, [(user_id, item_id)], level)
    return SinglePredictionOut(
        model_version=answer.model_version,
        trained_through=answer.trained_through,
        level=level,
        **answer.predictions[0].model_dump(),
    )


@router.post("/predictions")
async def predict_many(body: PredictionsIn, recommender: RecommenderDep) -> PredictionsOut:
    """Predict up to 10,000 ratings at once; the answers come in the order of the pairs."""
    pairs = [(pair.user_id, pair.item_id) for pair in body.pairs]
    return await recommender.answer(recommender.predictions, pairs, body.level)


@router.post("/recommendations", response_model=RecommendationsOut, responses=declared(HTTPStatus.CONFLICT))
async def recommend_for_ratings(body: RecommendationsIn, recommender: RecommenderDep) -> Response:
    """The best items for ratings given in the body: anonymous visitors and what-if questions. Nothing is stored."""
    given = [(rating.item_id, rating.value) for rating in body.ratings]
    return _json(await recommender.answer(recommender.for_ratings, given, body.wish()))


@router.post(
    "/recommendations/batch",
    response_class=StreamingResponse,
    responses={
        HTTPStatus.OK.value: {
            "description": (
                "A line for each user, in their order: `RecommendationsOut` with `user_id` instead of `next_cursor`."
            ),
            "content": {NDJSON: {"schema": {"type": "string"}, "example": _LINE}},
        }
    },
)
async def recommend_in_batch(body: BatchIn, recommender: RecommenderDep) -> StreamingResponse:
    """The best items for many users, as a stream of lines: mail campaigns, caches, exports.

    Users are read and scored in groups that share one look at the database and one scan of the items. A version that is
    activated meanwhile answers from the next group on; each line says which one made it.
    """
    return StreamingResponse(recommender.lines(body.user_ids, body.wish()), media_type=NDJSON)


@similar_router.get("/popular", response_model=PopularItemsOut, responses=_REVALIDATED, openapi_extra=_IF_NONE_MATCH)
async def list_popular_items(
    query: Annotated[PopularItemsQuery, Query()], recommender: RecommenderDep, request: Request
) -> Response:
    """The items with the highest Bayesian mean rating, of all time or of the last days."""
    answer = await recommender.answer(recommender.popular, query.n, query.filter(), query.days)
    return _revalidated(answer, request)


@similar_router.post("/similar", response_model=SimilarToSeveralOut, responses=declared(HTTPStatus.NOT_FOUND))
async def list_items_similar_to_several(body: SimilarToSeveralIn, recommender: RecommenderDep) -> Response:
    """The items whose vectors point where those of several items point together, by their mean cosine with them."""
    return _json(await recommender.answer(recommender.similar_to_several, body.item_ids, body.n, body.filter()))


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
    """The items whose vectors point the same way; an item too new for the model has none yet."""
    return _revalidated(await recommender.answer(recommender.similar, item_id, query.n, query.filter()), request)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _revalidated(body: bytes, request: Request) -> Response:
    """The answer, or only the word that the client has it already (RFC 9110, section 13.1.2)."""
    etag = etag_of(body)
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if known := request.headers.get("if-none-match"):
        names = {name.strip().removeprefix("W/") for name in known.split(",")}
        if etag in names or "*" in names:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(body, headers=headers, media_type="application/json")
