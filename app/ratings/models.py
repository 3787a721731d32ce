"""The tables of users, ratings and deleted ratings, and a rating before and after it is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Literal, NamedTuple, get_args

from sqlalchemy import BigInteger, Float, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables import ID_LENGTH, Base, UtcTime, time_of


class User(Base):
    """Somebody who rates; created by the first rating. A `user_key` is never used again."""

    __tablename__ = "users"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012

    user_key: Mapped[int] = mapped_column(Integer, primary_key=True)
    user_id: Mapped[str] = mapped_column(String(ID_LENGTH), unique=True)


class Rating(Base):
    """One user's latest rating of one item; rating again replaces it and gives it a new revision."""

    __tablename__ = "ratings"
    __table_args__ = (
        # With the value in the index, SQLite reads the changes since a revision from the index alone: 40 times as fast.
        Index("ix_ratings_revision", "revision", "value"),
        {"sqlite_with_rowid": False},
    )

    user_key: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    item_key: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    value: Mapped[float] = mapped_column(Float(53))
    rated_at: Mapped[datetime] = mapped_column(UtcTime)
    revision: Mapped[int] = mapped_column(BigInteger)


class DeletedRating(Base):
    """A rating that is gone; rating the item again removes this row. Keys only, nothing personal."""

    __tablename__ = "deleted_ratings"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    user_key: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    item_key: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(BigInteger, index=True)


Outcome = Literal["unchanged", "updated", "created"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
"""By the number that the writers of both databases use."""
CREATED = 2


class NewRating(NamedTuple):
    """A rating to store; `rated_us` is in microseconds since 1970, None means the time of the write."""

    user_id: str
    item_id: str
    value: float
    rated_us: int | None = None


@dataclass(frozen=True, slots=True)
class SavedRating:
    """A rating as stored now, what saving it did, and the newest revision after it."""

    user_id: str
    item_id: str
    value: float
    rated_at: datetime
    outcome: Outcome
    revision: int


def saved_ratings(
    ratings: Sequence[NewRating], before: int, times: Sequence[int], changes: Sequence[int]
) -> list[SavedRating]:
    """Ratings with their times as stored now and the numbers of their outcomes; each change takes a revision."""
    revisions = accumulate((change > 0 for change in changes), initial=before)
    next(revisions)
    return [
        SavedRating(user_id, item_id, value, time_of(rated_us), OUTCOMES[change], revision)
        for (user_id, item_id, value, _), rated_us, change, revision in zip(
            ratings, times, changes, revisions, strict=True
        )
    ]
