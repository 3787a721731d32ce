"""Batches as nearly all clients send them, read column by column: no object, and no check, for each rating alone.

Whatever is not of that kind is left to the model `NewRatings`, which understands more and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from pydantic_core import from_json

from app.db.tables import ID_LENGTH
from app.ratings.schemas import MAX_BATCH
from app.ratings.store import NewRating
from app.settings import RatingScale

_FIELDS = itemgetter("user_id", "item_id", "value")


def read_plain(body: bytes, scale: RatingScale) -> list[NewRating] | None:
    """The ratings of a batch of users, items and values that are all right; None of any other body."""
    try:
        given = from_json(body)
        ratings = given["ratings"]
        user_ids, item_ids, values = zip(*map(_FIELDS, ratings), strict=True)
    except (ValueError, TypeError, KeyError):  # no JSON, or of another shape
        return None
    is_plain = len(given) == 1 and len(ratings) <= MAX_BATCH and set(map(len, ratings)) == {3}
    if is_plain and _are_ids(user_ids) and _are_ids(item_ids) and _are_on(scale, values):
        return list(map(NewRating, user_ids, item_ids, map(float, values)))
    return None


def _are_ids(given: Sequence[Any]) -> bool:
    """Whether `app.http.ids.complaint_about_id` is silent about all of them."""
    if set(map(type, given)) != {str}:
        return False
    lengths, text = set(map(len, given)), "".join(given)
    fits = min(lengths) >= 1 and max(lengths) <= ID_LENGTH
    return fits and text.isprintable() and "/" not in text and "." not in given and ".." not in given


def _are_on(scale: RatingScale, given: Sequence[Any]) -> bool:
    """Whether all are numbers on the scale; there are fewer numbers than ratings."""
    return set(map(type, given)) <= {float, int} and not any(map(scale.complaint, set(given)))
