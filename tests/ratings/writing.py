"""Short ways to write ratings, for tests."""

from datetime import datetime

from sqlalchemy import Connection

from app.db.tables import microseconds_of
from app.ratings.models import NewRating, SavedRating
from app.ratings.store import upsert_for


def save(
    connection: Connection,
    user_id: str,
    item_id: str,
    value: float,
    rated_at: datetime | None = None,
    now: datetime | None = None,
) -> SavedRating:
    """Create or replace one rating."""
    rating = NewRating(user_id, item_id, value, None if rated_at is None else microseconds_of(rated_at))
    return upsert_for(connection).upsert_each(connection, [rating], now)[0]
