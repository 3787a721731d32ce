"""Ratings of requests that arrive together, written in one transaction.

A commit waits for the disk, and writers wait for each other. So the ratings that arrive while one transaction is in
progress go into the next one together. Each is committed before its request is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection

from app.coalescer import Coalescer
from app.db.engine import Database
from app.imports.line_import import BatchCounts
from app.ratings.models import NewRating, SavedRating
from app.ratings.store import latest_of_each_pair, upsert_for

Result = TypeVar("Result")
Upsertion = Callable[[Connection, Sequence[NewRating]], Result]


class GroupCommitWriter:
    """Saves ratings for the requests of one event loop, in one thread and few transactions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._upsert = upsert_for(database.engine)
        self._thread = ThreadPoolExecutor(1, "rating-writer")  # takes half as long to reach as the shared threads
        self._lock = asyncio.Lock()  # groups and batches take turns
        self._groups = Coalescer(partial(self._write, self._upsert.upsert_each), lock=self._lock)

    async def save(self, rating: NewRating) -> SavedRating:
        """Save one rating, committed. If the transaction fails, all ratings of the group fail and none is stored."""
        return await self._groups.submit(rating[:2], rating)

    async def save_many(self, ratings: Sequence[NewRating]) -> BatchCounts:
        """As `store.save_many`, committed. Waits on the event loop, so that batches do not occupy shared threads."""
        async with self._lock:
            return await self._write(self._upsert.upsert_many, latest_of_each_pair(ratings))

    def close(self) -> None:
        """End the thread once it has written what it is writing."""
        self._thread.shutdown()

    async def _write(self, upsert: Upsertion[Result], ratings: Sequence[NewRating]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, upsert, ratings)

    def _commit(self, upsert: Upsertion[Result], ratings: Sequence[NewRating]) -> Result:
        with self._database.write_at_once() as connection:
            return upsert(connection, ratings)
