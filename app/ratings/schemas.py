"""Request and response bodies of the rating endpoints."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.db.tables import microseconds_of, time_of
from app.http.ids import ExternalId
from app.ratings.checks import complaint_about_time, time_of_text
from app.ratings.models import Outcome

MAX_BATCH = 10_000


def _parsed_time(time: Any) -> Any:
    if not isinstance(time, str):
        if time is None or isinstance(time, datetime):
            return time
        raise ValueError("must be an ISO 8601 time such as 2026-01-31T12:00:00Z")
    rated_us = time_of_text(time)
    if complaint := complaint_about_time(rated_us, rated_us):  # before the year 1 in UTC it is no datetime
        raise ValueError(complaint)
    try:
        return time_of(rated_us)
    except OverflowError:
        raise ValueError("must not be in the future") from None


Value = Annotated[
    float,
    Field(allow_inf_nan=False, description="The rating, on the scale of this service.", examples=[4.5]),
]
RatedAt = Annotated[
    datetime | None,
    BeforeValidator(_parsed_time),
    Field(
        description="When the user rated, ISO 8601 with a time zone; not in the future. Default: now.",
        examples=["2026-01-31T12:00:00Z"],
    ),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RatingBody(_Body):
    """A rating whose user and item are in the path."""

    value: Value
    rated_at: RatedAt = None

    @property
    def rated_us(self) -> int | None:
        return None if self.rated_at is None else microseconds_of(self.rated_at)


class RatingIn(RatingBody):
    """One user's rating of one item."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"user_id": "ann", "item_id": "dune", "value": 4.5, "rated_at": "2026-01-31T12:00:00Z"}]
        }
    )

    user_id: ExternalId = Field(description="The application's id of the user.", examples=["ann"])
    item_id: ExternalId = Field(description="The application's id of the item.", examples=["dune"])


class RatingBatch(_Body):
    """Ratings to record or replace; if a user and item occur several times, the last rating wins."""

    ratings: list[RatingIn] = Field(max_length=MAX_BATCH)


class RatingOut(BaseModel):
    """A rating as it is stored."""

    model_config = ConfigDict(from_attributes=True)

    user_id: str = Field(examples=["ann"])
    item_id: str = Field(examples=["dune"])
    value: float = Field(examples=[4.5])
    rated_at: datetime = Field(examples=["2026-01-31T12:00:00Z"])
    revision: int = Field(description="The revision of its last change.", examples=[4711])


class SavedRatingOut(RatingOut):
    """A rating as it is stored now, and what the request did."""

    revision: int = Field(description="The newest revision after the write.", examples=[4711])
    outcome: Outcome = Field(description="Whether the rating is new, replaced another, or was already stored.")


class DeletedRatingOut(BaseModel):
    """A deleted rating."""

    user_id: str = Field(examples=["ann"])
    item_id: str = Field(examples=["dune"])
    revision: int = Field(description="The newest revision after the deletion.", examples=[4712])


class UserRatingsPage(BaseModel):
    """A page of a user's ratings, and the cursor of the next one."""

    user_id: str = Field(examples=["ann"])
    ratings: list[RatingOut]
    next_cursor: str | None = Field(
        description="Pass it as `cursor` to get the next page; null on the last page.", examples=[None]
    )


class ErasedUser(BaseModel):
    """A user who was erased with all ratings."""

    user_id: str = Field(examples=["ann"])
    erased_ratings: int = Field(examples=[232])
    revision: int = Field(description="The newest revision after the erasure.", examples=[4943])


class ErasedItem(BaseModel):
    """An item that was erased with all its ratings."""

    item_id: str = Field(examples=["dune"])
    erased_ratings: int = Field(examples=[17])
    revision: int = Field(description="The newest ratings revision after the erasure.", examples=[4960])


class RatingsDigest(BaseModel):
    """A digest of all ratings: equal ratings have equal digests."""

    digest: str = Field(
        description="SHA-256 over all ratings in the order of their ids, values and times included.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )
    n_ratings: int = Field(examples=[100836])
    revision: int = Field(description="The revision at which the digest was taken.", examples=[100836])
