"""Erases a user or an item with all ratings. Integer keys remain, so that caches and snapshots drop their copies."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, func, insert, literal, select

from app.db.revisions import advance
from app.items import store as items
from app.ratings.models import DeletedRating, Rating, User
from app.ratings.store import UnknownUser


class Erased(NamedTuple):
    """How many ratings were erased, and the newest ratings revision."""

    erased_ratings: int
    revision: int


def erase_user(connection: Connection, user_id: str) -> Erased:
    """Remove a user with all ratings; raises UnknownUser."""
    before = advance(connection, "ratings", 0)
    user_key = connection.execute(select(User.user_key).where(User.user_id == user_id)).scalar_one_or_none()
    if user_key is None:
        raise UnknownUser(user_id)
    erased = _erase_ratings(connection, Rating.user_key == user_key, before)
    connection.execute(delete(User).where(User.user_key == user_key))
    advance(connection, "n_users", -1)
    return erased


def erase_item(connection: Connection, item_id: str) -> Erased:
    """Remove an item with all ratings of it, which reads the whole ratings table; raises UnknownItem."""
    before = advance(connection, "ratings", 0)
    item_key = items.key_of(connection, item_id)
    erased = _erase_ratings(connection, Rating.item_key == item_key, before)
    items.remove(connection, item_key)
    return erased


def _erase_ratings(connection: Connection, condition: ColumnElement[bool], before: int) -> Erased:
    tombstones = select(Rating.user_key, Rating.item_key, literal(before) + func.row_number().over()).where(condition)
    connection.execute(insert(DeletedRating).from_select(["user_key", "item_key", "revision"], tombstones))
    n_erased = connection.execute(delete(Rating).where(condition)).rowcount
    advance(connection, "n_ratings", -n_erased)
    return Erased(n_erased, advance(connection, "ratings", n_erased))
