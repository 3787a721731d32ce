"""What goes in and out of the prediction and recommendation endpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.identifiers import OutsideId

Source = Literal["trained", "folded_in", "prior", "means", "popular"]

MAX_PAIRS = 10_000
MAX_N = 1_000
MAX_OFFSET = 100_000


@dataclass(frozen=True, slots=True)
class Wish:
    """What a list may hold: how many items, from where, and which not."""

    n: int = 10
    offset: int = 0
    categories: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    candidates: tuple[str, ...] | None = None
    include_rated: bool = False


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
Categories = Annotated[list[str], Field(max_length=100, description="Only items in any of these categories.")]


class Answer(BaseModel):
    """Which model an answer is made by."""

    model_version: int | None = Field(
        description="The model version that answered; null before the first.", examples=[3]
    )
    trained_through: int = Field(description="The last rating revision that the model has seen.", examples=[100836])


class Interval(BaseModel):
    """A predicted rating with the interval that holds the real one four times out of five."""

    value: float = Field(description="Predicted rating on the rating scale.", examples=[4.31])
    lower: float = Field(description="Lower end of the 80 % interval.", examples=[3.4])
    upper: float = Field(description="Upper end of the 80 % interval.", examples=[5.0])


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


class SinglePredictionOut(PredictionOut, Answer):
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


class PredictionsOut(Answer):
    """Predictions in the order of the pairs."""

    predictions: list[PredictionOut]


class RecommendedItem(Interval, ItemRef):
    """One item of a list, best first."""


class RecommendationsOut(Answer):
    """The best items that the user has not rated, best first."""

    source: SourceField
    items: list[RecommendedItem]


class BodyRating(BaseModel):
    """A rating that is used for this answer only."""

    model_config = ConfigDict(extra="forbid")

    item_id: OutsideId = Field(examples=["dune"])
    value: float = Field(strict=True, allow_inf_nan=False, examples=[4.5])


class RecommendationsQuery(BaseModel):
    """What a list may hold."""

    n: N = 10
    offset: Offset = 0
    category: list[str] = Field(
        [], max_length=100, description="Only items in any of these categories; repeat for several."
    )
    exclude: list[OutsideId] = Field(
        [], max_length=1_000, description="Items that must not appear; repeat for several."
    )
    include_rated: bool = Field(False, description="Whether items that the user has rated may appear.")

    def wish(self) -> Wish:
        return Wish(self.n, self.offset, tuple(self.category), tuple(self.exclude), None, self.include_rated)


class RecommendationsIn(BaseModel):
    """Ratings of somebody who need not be known, and what the list may hold."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"ratings": [{"item_id": "dune", "value": 4.5}, {"item_id": "solaris", "value": 4}], "n": 5}]
        },
    )

    ratings: list[BodyRating] = Field(default=[], max_length=10_000)
    n: N = 10
    offset: Offset = 0
    categories: Categories = []
    exclude: list[OutsideId] = Field(default=[], description="Items that must not appear.")
    candidates: list[OutsideId] | None = Field(default=None, description="The only items that may appear; null: all.")
    include_rated: bool = Field(default=False, description="Whether items rated in this body may appear.")

    def wish(self) -> Wish:
        candidates = None if self.candidates is None else tuple(self.candidates)
        return Wish(self.n, self.offset, tuple(self.categories), tuple(self.exclude), candidates, self.include_rated)


class SimilarItem(ItemRef):
    """An item liked by the same people."""

    similarity: float = Field(description="Cosine of the two items' vectors, at most 1.", examples=[0.83])


class SimilarItemsOut(Answer):
    """The most similar items, most similar first."""

    source: Literal["item_vectors", "means"] = Field(
        description=(
            "Where the numbers come from. `item_vectors`: the vectors of the active model; `means`: there is no model "
            "yet, no item has a vector and the list is empty."
        )
    )
    item_id: str = Field(examples=["dune"])
    items: list[SimilarItem]


class PopularItem(ItemRef):
    """An item rated highly by many."""

    value: float = Field(description="Bayesian mean: the mean rating, drawn to the overall mean.", examples=[4.2])
    n_ratings: int = Field(description="Ratings behind it, as of trained_through.", examples=[317])


class PopularItemsOut(Answer):
    """The most popular items, most popular first."""

    source: SourceField
    items: list[PopularItem]
