"""Endpoints for predicted ratings, recommendations, similar and popular items."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query

from app.errors import declared
from app.identifiers import ItemIdPath, OutsideId, UserIdPath
from app.recommendations.recommend import RecommenderDep, Wish
from app.recommendations.schemas import (
    MAX_N,
    MAX_OFFSET,
    PopularItemsOut,
    PredictionsIn,
    PredictionsOut,
    RecommendationsIn,
    RecommendationsOut,
    SimilarItemsOut,
    SinglePredictionOut,
)

router = APIRouter(tags=["recommendations"])
similar_router = APIRouter(prefix="/items", tags=["recommendations"])

NQuery = Annotated[int, Query(ge=1, le=MAX_N, description="How many items; fewer when fewer are left.")]
OffsetQuery = Annotated[int, Query(ge=0, le=MAX_OFFSET, description="How many of the best items to pass over.")]
CategoryQuery = Annotated[
    list[str], Query(max_length=100, description="Only items in any of these categories; repeat for several.")
]


@router.get("/users/{user_id}/predictions/{item_id}")
async def predict(user_id: UserIdPath, item_id: ItemIdPath, recommender: RecommenderDep) -> SinglePredictionOut:
    """Predict one user's rating of one item. Unknown users and items get an answer too, with a wide interval."""
    answer = await recommender.answer(recommender.predictions, [(user_id, item_id)])
    return SinglePredictionOut(
        model_version=answer.model_version,
        trained_through=answer.trained_through,
        **answer.predictions[0].model_dump(),
    )


@router.post("/predictions")
async def predict_many(body: PredictionsIn, recommender: RecommenderDep) -> PredictionsOut:
    """Predict up to 10,000 ratings at once; the answers come in the order of the pairs."""
    return await recommender.answer(recommender.predictions, [(pair.user_id, pair.item_id) for pair in body.pairs])


@router.get("/users/{user_id}/recommendations")
async def recommend(
    user_id: UserIdPath,
    recommender: RecommenderDep,
    n: NQuery = 10,
    offset: OffsetQuery = 0,
    category: CategoryQuery = [],  # noqa: B006  (FastAPI copies it)
    exclude: Annotated[
        list[OutsideId], Query(max_length=1_000, description="Items that must not appear; repeat for several.")
    ] = [],  # noqa: B006
    include_rated: Annotated[bool, Query(description="Whether items that the user has rated may appear.")] = False,
) -> RecommendationsOut:
    """The best items for a user by the ratings of this moment: a rating posted now counts in the next answer."""
    wish = Wish(n, offset, category, exclude, None, include_rated)
    return await recommender.answer(recommender.for_user, user_id, wish)


@router.post("/recommendations")
async def recommend_for_ratings(body: RecommendationsIn, recommender: RecommenderDep) -> RecommendationsOut:
    """The best items for ratings given in the body: anonymous visitors and what-if questions. Nothing is stored."""
    wish = Wish(body.n, body.offset, body.categories, body.exclude, body.candidates, body.include_rated)
    given = [(rating.item_id, rating.value) for rating in body.ratings]
    return await recommender.answer(recommender.for_ratings, given, wish)


@similar_router.get("/popular")
async def list_popular_items(
    recommender: RecommenderDep,
    n: NQuery = 10,
    category: CategoryQuery = [],  # noqa: B006
) -> PopularItemsOut:
    """The items with the highest Bayesian mean rating."""
    return await recommender.answer(recommender.popular, n, category)


@similar_router.get("/{item_id}/similar", responses=declared(HTTPStatus.NOT_FOUND))
async def list_similar_items(
    item_id: ItemIdPath,
    recommender: RecommenderDep,
    n: NQuery = 10,
    category: CategoryQuery = [],  # noqa: B006
) -> SimilarItemsOut:
    """The items whose vectors point the same way; an item too new for the model has none yet."""
    return await recommender.answer(recommender.similar, item_id, n, category)
