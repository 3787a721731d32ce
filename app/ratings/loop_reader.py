"""What a user rated, read by the event loop for a list: SQLite's own functions where they can be called."""

from __future__ import annotations

import logging

from sqlalchemy import Connection

from app.db.engine import Database
from app.ratings import store
from app.ratings.sqlite_native import KeptQuery, NotNative
from app.ratings.store import StateOfRatings, UserRatings

log = logging.getLogger(__name__)

ROOM = 1_000
"""Ratings that are read natively; whoever has more is read by Python's driver."""

_OF_USER = """
    SELECT users.user_key, item_key, value, revision
    FROM users LEFT JOIN ratings ON ratings.user_key = users.user_key WHERE user_id = ?"""
_STATE_OF_USER = """
    SELECT users.user_key, count(item_key), 0.0, max(revision)
    FROM users LEFT JOIN ratings ON ratings.user_key = users.user_key WHERE user_id = ? GROUP BY users.user_key"""


class LoopReader:
    """Reads ratings on connections of its own to the SQLite file, in half the time that Python's driver takes."""

    def __init__(self, database: Database, connection: Connection) -> None:
        """The connection is for what cannot be read natively."""
        self._connection = connection
        self._of_user = self._prepared(database, _OF_USER)
        self._state_of_user = self._prepared(database, _STATE_OF_USER)

    def _prepared(self, database: Database, query: str) -> KeptQuery | None:
        try:
            path = database.engine.url.database
            return KeptQuery(path, query, ROOM) if path else None
        except NotNative as reason:
            log.info("reading users' ratings by Python's own driver: %s", reason)
            return None

    def ratings_of_user(self, user_id: str) -> UserRatings:
        """As `store.ratings_of_user`, of this moment."""
        found = self._of_user.ask(user_id) if self._of_user else None
        if found is None:
            return store.ratings_of_user(self._connection, user_id)
        user_key, item_keys, values, newest = found
        return UserRatings(user_key, item_keys, values, newest) if user_key else store.NO_RATINGS

    def state_of_user(self, user_id: str) -> StateOfRatings:
        """As `store.state_of_user`, of this moment."""
        found = self._state_of_user.ask(user_id) if self._state_of_user else None
        if found is None:
            return store.state_of_user(self._connection, user_id)
        user_key, n_ratings, _, newest = found  # no number at all where it is zero
        return StateOfRatings(user_key, int(n_ratings.sum()), newest) if user_key else store.NO_RATINGS.state

    def close(self) -> None:
        """Let go of the file."""
        for query in (self._of_user, self._state_of_user):
            if query:
                query.close()
        self._of_user = self._state_of_user = None
