"""What a user rated, read by the event loop for a list: SQLite's own functions where they can be called."""

from __future__ import annotations

import logging

from sqlalchemy import Connection

from app.database import Database
from app.ratings import store
from app.ratings.sqlite_native import KeptQuery, NotNative
from app.ratings.store import UserRatings

log = logging.getLogger(__name__)

ROOM = 1_000
"""Ratings that are read natively; whoever has more is read by Python's driver."""

_OF_USER = """
    SELECT users.user_key, item_key, value, revision
    FROM users LEFT JOIN ratings ON ratings.user_key = users.user_key WHERE user_id = ?"""


class LoopReader:
    """Reads ratings on a connection of its own to the SQLite file, in half the time that Python's driver takes."""

    def __init__(self, database: Database) -> None:
        self._query: KeptQuery | None = None
        try:
            if path := database.engine.url.database:
                self._query = KeptQuery(path, _OF_USER, ROOM)
        except NotNative as reason:
            log.info("reading users' ratings by Python's own driver: %s", reason)

    def ratings_of_user(self, connection: Connection, user_id: str) -> UserRatings:
        """As `store.ratings_of_user`, of this moment; the connection is for what cannot be read natively."""
        found = self._query.ask(user_id) if self._query else None
        if found is None:
            return store.ratings_of_user(connection, user_id)
        user_key, item_keys, values, newest = found
        return UserRatings(user_key, item_keys, values, newest) if user_key else store.NO_RATINGS

    def close(self) -> None:
        """Let go of the file."""
        if self._query:
            self._query.close()
            self._query = None
