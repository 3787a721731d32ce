"""Request and response bodies of the prediction and recommendation endpoints."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from app.engine.fold_in.intervals import INTERVAL_LEVEL
from app.http.ids import ExternalId

Source = Literal["trained", "folded_in", "prior", "means", "popular"]

MAX_PAIRS = 10_000
MAX_N = 1_000
MAX_OFFSET = 100_000
MAX_CATEGORIES = 100
MAX_USERS = 10_000
MAX_REASONS = 1_000
MAX_CURSOR = 8_000


RankBy = Literal["value", "lower", "upper", "relevance"]


class ItemFilter(NamedTuple):
    """Which items a list may hold, whoever the user is."""

    any_of: tuple[str, ...] = ()
    all_of: tuple[str, ...] = ()
    none_of: tuple[str, ...] = ()
    """Names of categories."""
    min_ratings: int = 0


class ListRequest(NamedTuple):
    """What a list of recommendations may hold, its order, and what it says about each item."""

    n: int = 10
    offset: int = 0
    filter: ItemFilter = ItemFilter()
    exclude: tuple[str, ...] = ()
    candidates: tuple[str, ...] | None = None
    include_rated: bool = False
    diversity: float = 0.0
    rank_by: RankBy = "value"
    level: float = INTERVAL_LEVEL
    n_reasons: int | None = None
    """Reasons in the explanation of each item; None: no explanations."""
    cursor: str | None = None


SourceField = Annotated[
    Source,
    Field(
        description=(
            "Where the numbers come from. `trained`: the vector that the active model learned from the user's current "
            "ratings; `folded_in`: the user's current ratings, folded into the active model; `prior`: the active model "
            "without any rating by the user; `means`: item and user means, before the first model; `popular`: the "
            "best-rated items, in popularity lists and before the first model."
        )
    ),
]
N = Annotated[int, Field(ge=1, le=MAX_N, description="Number of items; the list is shorter if fewer are left.")]
Offset = Annotated[int, Field(ge=0, le=MAX_OFFSET, description="Number of items to skip at the top of the list.")]
MinRatings = Annotated[
    int, Field(ge=0, le=2**31 - 1, description="Exclude items with fewer ratings, as of `trained_through`.")
]
Level = Annotated[
    float,
    Field(
        ge=0.05,
        le=0.99,
        description="Share of ratings that intervals should contain; see docs/accuracy.md.",
        examples=[0.8],
    ),
]


class Answer(BaseModel):
    """The model version behind an answer."""

    model_version: int | None = Field(
        description="The model version that was used; null before the first one.", examples=[3]
    )
    trained_through: int = Field(
        description="The last rating revision that the model was trained on.", examples=[100836]
    )


class Interval(BaseModel):
    """A predicted rating, and the interval that contains the actual one with probability `level`."""

    value: float = Field(description="Predicted rating on the rating scale.", examples=[4.31])
    lower: float = Field(description="Lower bound of the interval.", examples=[3.4])
    upper: float = Field(description="Upper bound of the interval.", examples=[5.0])


class Leveled(BaseModel):
    """The level of the intervals."""

    level: float = Field(description="Share of ratings that the intervals should contain.", examples=[0.8])


class PairRef(BaseModel):
    """A user and an item."""

    user_id: str = Field(examples=["ann"])
    item_id: str = Field(examples=["dune"])


class ItemRef(BaseModel):
    """An item."""

    item_id: str = Field(examples=["dune"])
    title: str | None = Field(examples=["Dune"])
    categories: list[str] = Field(examples=[["Sci-Fi", "Adventure"]])


class PredictionOut(Interval, PairRef):
    """The predicted rating of one item by one user."""

    source: SourceField


class SinglePredictionOut(PredictionOut, Leveled, Answer):
    """One prediction and the model version behind it."""


class Pair(BaseModel):
    """The user and the item whose rating to predict."""

    model_config = ConfigDict(extra="forbid")

    user_id: ExternalId = Field(examples=["ann"])
    item_id: ExternalId = Field(examples=["dune"])


class PredictionsIn(BaseModel):
    """Pairs to predict, in any order."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"pairs": [{"user_id": "ann", "item_id": "dune"}, {"user_id": "ben", "item_id": "dune"}]}]
        },
    )

    pairs: list[Pair] = Field(max_length=MAX_PAIRS)
    level: Level = INTERVAL_LEVEL


class PredictionsOut(Leveled, Answer):
    """Predictions in the order of the pairs."""

    predictions: list[PredictionOut]


class Reason(ItemRef):
    """One of the user's ratings, and its share of the score."""

    rating: float = Field(description="The user's rating.", examples=[4.5])
    share: float = Field(description="Its contribution to the score; may be negative.", examples=[0.21])


class Explanation(BaseModel):
    """score = prior + shares of `reasons` + other_ratings + residual; the value is the score, clipped to the scale."""

    score: float = Field(description="The score, before the loss's link and not clipped.", examples=[4.31])
    prior: float = Field(description="The score without any of the user's ratings.", examples=[3.9])
    reasons: list[Reason] = Field(description="The ratings with the largest shares, largest first.")
    other_ratings: float = Field(description="Sum of the shares of all other ratings.", examples=[0.08])
    residual: float = Field(
        description="Score of the trained vector minus that of folding in; 0 up to rounding if the user was folded in.",
        examples=[0.0],
    )


class RecommendedItem(Interval, ItemRef):
    """One item of a list, best first."""

    explanation: Explanation | None = Field(None, description="Why the item is in the list; only with `explain`.")


class RecommendationsOut(Leveled, Answer):
    """The best items for a user, best first."""

    source: SourceField
    explained: Literal["exactly", "linearised"] | None = Field(
        None,
        description=(
            "How the shares were computed; only with `explain`. `exactly`: squared loss, whose solution is a sum over "
            "the ratings; `linearised`: by a quadratic approximation of another loss around its solution."
        ),
        examples=["exactly"],
    )
    next_cursor: str | None = Field(
        description=(
            "Send it as `cursor` to get the next page of the same list. Null on the last page, before the first model, "
            "and for lists with diversity or not ranked by `value`."
        ),
        examples=[None],
    )
    items: list[RecommendedItem]


class BodyRating(BaseModel):
    """A rating that is used for this response only and never stored."""

    model_config = ConfigDict(extra="forbid")

    item_id: ExternalId = Field(examples=["dune"])
    value: float = Field(strict=True, allow_inf_nan=False, examples=[4.5])


class FilterQuery(BaseModel):
    """Which items a list may hold."""

    category: list[str] = Field(
        [], max_length=MAX_CATEGORIES, description="Only items in any of these categories; repeat for several."
    )
    category_all: list[str] = Field(
        [], max_length=MAX_CATEGORIES, description="Only items in every one of these categories; repeat for several."
    )
    category_none: list[str] = Field(
        [], max_length=MAX_CATEGORIES, description="No items in any of these categories; repeat for several."
    )
    min_ratings: MinRatings = 0

    def filter(self) -> ItemFilter:
        return ItemFilter(tuple(self.category), tuple(self.category_all), tuple(self.category_none), self.min_ratings)


class FilterIn(BaseModel):
    """Which items a list may hold."""

    categories: list[str] = Field([], max_length=MAX_CATEGORIES, description="Only items in any of these categories.")
    categories_all: list[str] = Field(
        [], max_length=MAX_CATEGORIES, description="Only items in every one of these categories."
    )
    categories_none: list[str] = Field(
        [], max_length=MAX_CATEGORIES, description="No items in any of these categories."
    )
    min_ratings: MinRatings = 0

    def filter(self) -> ItemFilter:
        return ItemFilter(
            tuple(self.categories), tuple(self.categories_all), tuple(self.categories_none), self.min_ratings
        )


class ListOptions(BaseModel):
    """Options of every list of recommendations."""

    n: N = 10
    include_rated: bool = Field(False, description="Whether items that the user has rated may appear.")
    diversity: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="From 0 (the best items) to 1 (the items least similar to each other).",
        examples=[0.3],
    )
    rank_by: RankBy = Field(
        "value",
        description=(
            "Order by predicted rating, by the lower (cautious) or upper (exploratory) bound of its interval, or by "
            "relevance: the predicted rating combined with how likely the user is to rate the item at all."
        ),
    )
    level: Level = INTERVAL_LEVEL
    explain: bool = Field(False, description="Whether to explain each item's score by the user's ratings.")
    n_reasons: int = Field(
        5,
        ge=1,
        le=MAX_REASONS,
        description="Number of ratings listed in each explanation; the shares of the rest are summed.",
    )

    def _list_request(self, item_filter: ItemFilter, exclude: list[ExternalId], **more: Any) -> ListRequest:
        return ListRequest(
            n=self.n,
            filter=item_filter,
            exclude=tuple(exclude),
            include_rated=self.include_rated,
            diversity=self.diversity,
            rank_by=self.rank_by,
            level=self.level,
            n_reasons=self.n_reasons if self.explain else None,
            **more,
        )


class PageOptions(ListOptions):
    """Options of a list that has pages."""

    offset: Offset = 0
    cursor: str | None = Field(
        None,
        max_length=MAX_CURSOR,
        description="`next_cursor` of the previous page; leave all other options unchanged.",
    )


class RecommendationsQuery(PageOptions, FilterQuery):
    """Options of the list of one user."""

    exclude: list[ExternalId] = Field(
        [], max_length=1_000, description="Items that must not appear; repeat for several."
    )

    def list_request(self) -> ListRequest:
        return self._list_request(self.filter(), self.exclude, offset=self.offset, cursor=self.cursor)


class RecommendationsIn(PageOptions, FilterIn):
    """Ratings of a known or anonymous user, and the options of the list."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"ratings": [{"item_id": "dune", "value": 4.5}, {"item_id": "solaris", "value": 4}], "n": 5}]
        },
    )

    ratings: list[BodyRating] = Field(default=[], max_length=10_000)
    exclude: list[ExternalId] = Field(default=[], description="Items that must not appear.")
    candidates: list[ExternalId] | None = Field(
        default=None, description="The only items that may appear; null: all items."
    )

    def list_request(self) -> ListRequest:
        candidates = None if self.candidates is None else tuple(self.candidates)
        paging = {"offset": self.offset, "cursor": self.cursor}
        return self._list_request(self.filter(), self.exclude, candidates=candidates, **paging)


class BatchIn(ListOptions, FilterIn):
    """Users, and the options of their lists."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user_ids": ["ann", "ben"], "n": 5, "min_ratings": 10}]}
    )

    user_ids: list[ExternalId] = Field(
        max_length=MAX_USERS, description="The users; their lists are returned in this order."
    )
    exclude: list[ExternalId] = Field(default=[], description="Items that must not appear in any list.")

    def list_request(self) -> ListRequest:
        return self._list_request(self.filter(), self.exclude)


class SimilarItem(ItemRef):
    """An item with a similar vector."""

    similarity: float = Field(description="Cosine of the two items' vectors, at most 1.", examples=[0.83])


class _ByItemVectors(Answer):
    """A list ordered by the similarity of item vectors."""

    source: Literal["item_vectors", "means"] = Field(
        description=(
            "Where the numbers come from. `item_vectors`: the vectors of the active model; `means`: there is no model "
            "yet, so the list is empty."
        )
    )


class SimilarItemsOut(_ByItemVectors):
    """The items most similar to one, most similar first."""

    item_id: str = Field(examples=["dune"])
    items: list[SimilarItem]


class SimilarToSeveralOut(_ByItemVectors):
    """The items with the highest mean cosine similarity to several items, most similar first."""

    item_ids: list[str] = Field(description="The items that the list is similar to.", examples=[["dune", "solaris"]])
    items: list[SimilarItem]


class SimilarToSeveralIn(FilterIn):
    """Items to find similar ones to, and the options of the list."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"item_ids": ["dune", "solaris"], "n": 5}]}
    )

    item_ids: list[ExternalId] = Field(min_length=1, max_length=100, description="The items, all weighted equally.")
    n: N = 10


class SimilarItemsQuery(FilterQuery):
    """Options of a list of items."""

    n: N = 10


class PopularItemsQuery(SimilarItemsQuery):
    """Options of a list of popular items."""

    days: int | None = Field(
        None, ge=1, le=36_500, description="Count only ratings from this many past days, by `rated_at`.", examples=[30]
    )


class PopularItem(ItemRef):
    """An item with a high mean rating."""

    value: float = Field(description="Bayesian mean: the mean rating, shrunk towards the overall mean.", examples=[4.2])
    n_ratings: int = Field(description="Number of its ratings, as of `trained_through`.", examples=[317])


class PopularItemsOut(Answer):
    """The most popular items, most popular first."""

    source: SourceField
    shrinkage: float = Field(
        description="Weight of the overall mean, in ratings; estimated from the ratings.",
        examples=[4.7],
    )
    items: list[PopularItem]
