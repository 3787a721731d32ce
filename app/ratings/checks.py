"""Checks of values and times, for request bodies and import files."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from app.db.tables import microseconds_of, utc_now
from app.errors import BadInput, FieldError
from app.ratings.models import NewRating
from app.settings import RatingScale

CLOCK_SKEW = timedelta(seconds=60)
_EARLIEST_US = microseconds_of(datetime(1, 1, 1, tzinfo=UTC))
_SHOWN_ERRORS = 100


def time_of_text(text: str) -> int:
    """An ISO 8601 time with a zone, in microseconds since 1970; raises ValueError with the reason."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be an ISO 8601 time such as 2026-01-31T12:00:00Z") from None
    if time.tzinfo is None:
        raise ValueError("must name its time zone, as in 2026-01-31T12:00:00Z")
    return microseconds_of(time)


def latest_us() -> int:
    """The latest time that a rating may have: now, plus a tolerance for clocks that differ."""
    return microseconds_of(utc_now() + CLOCK_SKEW)


def complaint_about_time(rated_us: int, latest: int) -> str | None:
    """Why this cannot be the time of a rating, or None when it can."""
    if rated_us > latest:
        return "must not be in the future"
    if rated_us < _EARLIEST_US:
        return "must not lie before the year 1"
    return None


def refuse_bad_ratings(scale: RatingScale, ratings: Iterable[NewRating], path: str = "") -> None:
    """Raises BadInput naming each value off the scale and each future time; the index replaces `{}` in `path`."""
    latest = latest_us()
    errors = []
    for index, rating in enumerate(ratings):
        if complaint := scale.complaint(rating.value):
            errors.append(FieldError(field=f"{path.format(index)}value", message=complaint))
        if rating.rated_us is not None and (complaint := complaint_about_time(rating.rated_us, latest)):
            errors.append(FieldError(field=f"{path.format(index)}rated_at", message=complaint))
        if len(errors) >= _SHOWN_ERRORS:
            break
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise BadInput(f"{errors[0].field}: {errors[0].message}{more}", errors)
