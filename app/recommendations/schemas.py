"""What goes in and out of the prediction and recommendation endpoints."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.engine.fold_in.intervals import INTERVAL_LEVEL
from app.http.ids import OutsideId

Source = Literal["trained", "folded_in", "prior", "means", "popular"]

MAX_PAIRS = 10_000
MAX_N = 1_000
MAX_OFFSET = 100_000
MAX_CATEGORIES = 100
MAX_USERS = 10_000
MAX_REASONS = 1_000
MAX_CURSOR = 8_000


RankBy = Literal["value", "lower", "upper", "relevance"]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which items a list may hold, by what everybody knows of them."""

    any_of: tuple[str, ...] = ()
    all_of: tuple[str, ...] = ()
    none_of: tuple[str, ...] = ()
    """Names of categories."""
    min_ratings: int = 0


@dataclass(frozen=True, slots=True)
class Wish:
    """What a list may hold, in which order, and what is told of it."""

    n: int = 10
    offset: int = 0
    filter: Filter = Filter()
    exclude: tuple[str, ...] = ()
    candidates: tuple[str, ...] | None = None
    include_rated: bool = False
    diversity: float = 0.0
    rank_by: RankBy = "value"
    level: float = INTERVAL_LEVEL
    n_reasons: int | None = None
    """Of each item; None where nothing is to be explained."""
    cursor: str | None = None
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "_hash", hash(tuple(getattr(self, each.name) for each in fields(self) if each.compare))
        )

    def __hash__(self) -> int:
        return self._hash  # computed once: a wish is looked up in every request for which it was read from a query


SourceField = Annotated[
    Source,
    Field(
        description=(
            "Where the numbers come from. `trained`: the active model's own vector of the user, whose ratings are "
            "those "
            "that it learned; `folded_in`: the user's ratings of this moment against the active model; "
            "`prior`: the model without any rating of the user; `means`: item and user means, before the first model; "
            "`popular`: the best-rated items, of all or before the first model."
        )
    ),
]
N = Annotated[int, Field(ge=1, le=MAX_N, description="How many items; fewer come back when fewer are left.")]
Offset = Annotated[int, Field(ge=0, le=MAX_OFFSET, description="How many of the best items to pass over.")]
MinRatings = Annotated[
    int, Field(ge=0, le=2**31 - 1, description="Leave out items with fewer ratings, as of `trained_through`.")
]
Level = Annotated[
    float,
    Field(
        ge=0.05,
        le=0.99,
        description="Share of ratings that intervals are to hold; see docs/accuracy.md.",
        examples=[0.8],
    ),
]


class Answer(BaseModel):
    """Which model an answer is made by."""

    model_version: int | None = Field(
        description="The model version that answered; null before the first.", examples=[3]
    )
    trained_through: int = Field(description="The last rating revision that the model has seen.", examples=[100836])


class Interval(BaseModel):
    """A predicted rating with the interval that holds the real one as often as `level` says."""

    value: float = Field(description="Predicted rating on the rating scale.", examples=[4.31])
    lower: float = Field(description="Lower end of the interval.", examples=[3.4])
    upper: float = Field(description="Upper end of the interval.", examples=[5.0])


class Leveled(BaseModel):
    """How wide intervals are."""

    level: float = Field(description="Share of ratings that the intervals are to hold.", examples=[0.8])


class PairRef(BaseModel):
    """Which user and which item."""

    user_id: str = Field(examples=["ann"])
    item_id: str = Field(examples=["dune"])


class ItemRef(BaseModel):
    """Which item."""

    item_id: str = Field(examples=["dune"])
    title: str | None = Field(examples=["Dune"])
    categories: list[str] = Field(examples=[["Sci-Fi", "Adventure"]])


class PredictionOut(Interval, PairRef):
    """The predicted rating of one item by one user."""

    source: SourceField


class SinglePredictionOut(PredictionOut, Leveled, Answer):
    """One prediction and the model that made it."""


class Pair(BaseModel):
    """Whose rating of what to predict."""

    model_config = ConfigDict(extra="forbid")

    user_id: OutsideId = Field(examples=["ann"])
    item_id: OutsideId = Field(examples=["dune"])


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
    """A rating of the user, and what it adds to the score."""

    rating: float = Field(description="What the user gave.", examples=[4.5])
    share: float = Field(description="What that adds to the score, or takes from it.", examples=[0.21])


class Explanation(BaseModel):
    """score = prior + the shares of `reasons` + others + learned; the value is the score, clipped to the scale."""

    score: float = Field(description="The score, before the loss's link and not clipped.", examples=[4.31])
    prior: float = Field(description="What the item gets without any of the user's ratings.", examples=[3.9])
    reasons: list[Reason] = Field(description="The ratings that add or take most, largest first.")
    others: float = Field(description="What all other ratings add together.", examples=[0.08])
    learned: float = Field(
        description="What the trained vector knows beyond that; 0 but for rounding where the user was folded in.",
        examples=[0.0],
    )


class RecommendedItem(Interval, ItemRef):
    """One item of a list, best first."""

    explanation: Explanation | None = Field(None, description="Why it is there; only where `explain` was asked for.")


class RecommendationsOut(Leveled, Answer):
    """The best items that the user has not rated, best first."""

    source: SourceField
    explained: Literal["exactly", "linearised"] | None = Field(
        None,
        description=(
            "How the shares were found, where `explain` was asked for. `exactly`: squared errors, whose solution is a "
            "sum over the ratings; `linearised`: by the parabola around the solution of another loss."
        ),
        examples=["exactly"],
    )
    next_cursor: str | None = Field(
        description=(
            "Give it as `cursor` for the next page of the same list; null on the last, before the first model, and for "
            "lists that are not ranked by `value`, or with diversity."
        ),
        examples=[None],
    )
    items: list[RecommendedItem]


class BodyRating(BaseModel):
    """A rating that is used for this answer only."""

    model_config = ConfigDict(extra="forbid")

    item_id: OutsideId = Field(examples=["dune"])
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

    def filter(self) -> Filter:
        return Filter(tuple(self.category), tuple(self.category_all), tuple(self.category_none), self.min_ratings)


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

    def filter(self) -> Filter:
        return Filter(tuple(self.categories), tuple(self.categories_all), tuple(self.categories_none), self.min_ratings)


class ListOptions(BaseModel):
    """What every list of recommendations can be asked for."""

    n: N = 10
    include_rated: bool = Field(False, description="Whether items that the user has rated may appear.")
    diversity: float = Field(
        0.0, ge=0.0, le=1.0, description="From 0, the best items, to 1, those least alike.", examples=[0.3]
    )
    rank_by: RankBy = Field(
        "value",
        description=(
            "Order by predicted rating, by the lower (cautious) or upper (curious) end of its interval, or by "
            "relevance: the predicted rating, and how much users who rate the same come across the item."
        ),
    )
    level: Level = INTERVAL_LEVEL
    explain: bool = Field(False, description="Whether to say what each rating of the user adds to each item's score.")
    n_reasons: int = Field(
        5, ge=1, le=MAX_REASONS, description="Ratings named in each explanation; the rest are added up."
    )

    def _wish(self, wanted: Filter, exclude: list[OutsideId]) -> Wish:
        return Wish(
            n=self.n,
            filter=wanted,
            exclude=tuple(exclude),
            include_rated=self.include_rated,
            diversity=self.diversity,
            rank_by=self.rank_by,
            level=self.level,
            n_reasons=self.n_reasons if self.explain else None,
        )


class PageOptions(ListOptions):
    """Where a list begins."""

    offset: Offset = 0
    cursor: str | None = Field(
        None, max_length=MAX_CURSOR, description="`next_cursor` of the page before; everything else as it was then."
    )


class RecommendationsQuery(PageOptions, FilterQuery):
    """What a list may hold."""

    exclude: list[OutsideId] = Field(
        [], max_length=1_000, description="Items that must not appear; repeat for several."
    )

    def wish(self) -> Wish:
        wish = self._wish(self.filter(), self.exclude)
        return replace(wish, offset=self.offset, cursor=self.cursor)


class RecommendationsIn(PageOptions, FilterIn):
    """Ratings of somebody who need not be known, and what the list may hold."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"ratings": [{"item_id": "dune", "value": 4.5}, {"item_id": "solaris", "value": 4}], "n": 5}]
        },
    )

    ratings: list[BodyRating] = Field(default=[], max_length=10_000)
    exclude: list[OutsideId] = Field(default=[], description="Items that must not appear.")
    candidates: list[OutsideId] | None = Field(default=None, description="The only items that may appear; null: all.")

    def wish(self) -> Wish:
        wish = self._wish(self.filter(), self.exclude)
        candidates = None if self.candidates is None else tuple(self.candidates)
        return replace(wish, offset=self.offset, cursor=self.cursor, candidates=candidates)


class BatchIn(ListOptions, FilterIn):
    """Users, and what the list of each may hold."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user_ids": ["ann", "ben"], "n": 5, "min_ratings": 10}]}
    )

    user_ids: list[OutsideId] = Field(max_length=MAX_USERS, description="Whose lists; they come in this order.")
    exclude: list[OutsideId] = Field(default=[], description="Items that must not appear in any list.")

    def wish(self) -> Wish:
        return self._wish(self.filter(), self.exclude)


class SimilarItem(ItemRef):
    """An item liked by the same people."""

    similarity: float = Field(description="Cosine of the two items' vectors, at most 1.", examples=[0.83])


class _ByItemVectors(Answer):
    """A list made from the directions of item vectors."""

    source: Literal["item_vectors", "means"] = Field(
        description=(
            "Where the numbers come from. `item_vectors`: the vectors of the active model; `means`: there is no model "
            "yet, no item has a vector and the list is empty."
        )
    )


class SimilarItemsOut(_ByItemVectors):
    """The items most similar to one, most similar first."""

    item_id: str = Field(examples=["dune"])
    items: list[SimilarItem]


class SimilarToSeveralOut(_ByItemVectors):
    """The items most similar to several together, by their mean cosine with them, most similar first."""

    item_ids: list[str] = Field(description="What they are similar to.", examples=[["dune", "solaris"]])
    items: list[SimilarItem]


class SimilarToSeveralIn(FilterIn):
    """Items to find more like, and what the list may hold."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"item_ids": ["dune", "solaris"], "n": 5}]}
    )

    item_ids: list[OutsideId] = Field(min_length=1, max_length=100, description="What to be similar to, each as much.")
    n: N = 10


class SimilarItemsQuery(FilterQuery):
    """What a list of items may hold."""

    n: N = 10


class PopularItemsQuery(SimilarItemsQuery):
    """What a list of popular items may hold, and of when."""

    days: int | None = Field(
        None, ge=1, le=36_500, description="Only by ratings of the last so many days (their `rated_at`).", examples=[30]
    )


class PopularItem(ItemRef):
    """An item rated highly by many."""

    value: float = Field(description="Bayesian mean: the mean rating, drawn to the overall mean.", examples=[4.2])
    n_ratings: int = Field(description="Ratings behind it, as of trained_through.", examples=[317])


class PopularItemsOut(Answer):
    """The most popular items, most popular first."""

    source: SourceField
    shrinkage: float = Field(
        description="Ratings of the overall mean that are added to every item's: learned from the ratings.",
        examples=[4.7],
    )
    items: list[PopularItem]
