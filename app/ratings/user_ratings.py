"""What users have rated, asked of a server together for the requests that arrive together.

A question of its own for each request costs more than the answer to it. What arrives while one question is on its way
goes into the next one as a whole, so every answer is as of a moment after its request came.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import anyio.to_thread
import numpy as np

from app.db.connections import driver
from app.db.engine import Database
from app.ratings.group_commit import all_have_come
from app.ratings.store import NO_RATINGS, StateOfRatings, UserRatings

_LOOK = """
    SELECT users.user_key, state.n, state.newest, packed.item_keys, packed.opinions,
        (SELECT value FROM counters WHERE name = 'items')
    FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[]) WITH ORDINALITY
        AS given (user_id, user_key, n, newest, place)
    LEFT JOIN users ON users.user_id = given.user_id
    LEFT JOIN LATERAL (
        SELECT count(*) AS n, coalesce(max(revision), 0) AS newest FROM ratings
        WHERE ratings.user_key = users.user_key OFFSET 0
    ) AS state ON true
    LEFT JOIN LATERAL (
        SELECT string_agg(int8send(item_key), '' ORDER BY item_key) AS item_keys,
            string_agg(float8send(value), '' ORDER BY item_key) AS opinions
        FROM ratings
        WHERE ratings.user_key = users.user_key
            AND (users.user_key, state.n, state.newest) IS DISTINCT FROM (given.user_key, given.n, given.newest)
    ) AS packed ON true
    ORDER BY given.place"""


class NotLookedAt(Exception):
    """Ratings were not read, as they were known; whoever has forgotten them meanwhile asks again."""

    def __init__(self, user_id: str) -> None:
        super().__init__(f"the ratings of user {user_id!r} were not asked for")
        self.user_id = user_id


class Look(NamedTuple):
    """One user's ratings as of one moment, and the newest revision of the items."""

    items_revision: int
    state: StateOfRatings
    ratings: UserRatings | None
    """None where the state is the one that was known."""

    def state_of_user(self, _user_id: str) -> StateOfRatings:
        return self.state

    def ratings_of_user(self, user_id: str) -> UserRatings:
        """Raises NotLookedAt where the state is the one that was known."""
        if self.ratings is None:
            raise NotLookedAt(user_id)
        return self.ratings


class _Group:
    """Users who are asked for in one question, and the state in which each is known."""

    def __init__(self) -> None:
        self.known: dict[str, StateOfRatings | None] = {}
        self.found: asyncio.Task[dict[str, Look]]


class Looks:
    """Looks for the requests of one event loop, on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = asyncio.Lock()
        self._open: _Group | None = None  # takes users until its turn comes

    async def at(self, user_id: str, known: StateOfRatings | None) -> Look:
        """The user as of now; raises what the database raises."""
        group = self._open
        if group is None:
            group = self._open = _Group()
            group.found = asyncio.create_task(self._find(group))
        if group.known.setdefault(user_id, known) != known:
            group.known[user_id] = None
        # A request that is given up must not take the others along.
        return (await asyncio.shield(group.found))[user_id]

    async def _find(self, group: _Group) -> dict[str, Look]:
        async with self._turn:
            await all_have_come(group.known)
            if self._open is group:
                self._open = None
            return await anyio.to_thread.run_sync(self._ask, group.known)

    def _ask(self, known: dict[str, StateOfRatings | None]) -> dict[str, Look]:
        states = [state or StateOfRatings(None, -1, -1) for state in known.values()]
        with self._database.read_at_once() as connection, driver(connection) as raw, raw.cursor(binary=True) as cursor:
            rows = cursor.execute(_LOOK, (list(known), *map(list, zip(*states, strict=True)))).fetchall()
        return {user_id: _look(known[user_id], *row) for user_id, row in zip(known, rows, strict=True)}


def _look(
    known: StateOfRatings | None,
    user_key: int | None,
    n: int,
    newest: int,
    item_keys: bytes | None,
    opinions: bytes | None,
    items_revision: int,
) -> Look:
    state = StateOfRatings(user_key, n, newest)
    if state == known:
        return Look(items_revision, state, None)
    if user_key is None:
        return Look(items_revision, state, NO_RATINGS)
    keys, values = np.frombuffer(item_keys or b"", ">i8"), np.frombuffer(opinions or b"", ">f8")
    return Look(items_revision, state, UserRatings(user_key, keys.astype(np.int64), values.astype(np.float64), newest))
