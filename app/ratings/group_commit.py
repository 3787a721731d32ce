"""Ratings of requests that arrive together, written in one transaction.

A commit waits for the disk, and writers wait for each other. So the ratings that arrive while one transaction is in
progress go into the next one together. Each is committed before its request is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from app.coalescer import Coalescer
from app.db.engine import Database
from app.imports.line_import import BatchCounts
from app.ratings.models import NewRating, SavedRating
from app.ratings.store import save_many, upsert_for


class GroupCommitWriter:
    """Saves ratings for the requests of one event loop, in one thread and few transactions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._upsert = upsert_for(database.engine)
        self._thread = ThreadPoolExecutor(1, "rating-writer")  # takes half as long to reach as the shared threads
        self._lock = asyncio.Lock()  # groups and batches take turns
        self._groups = Coalescer(self._commit, self._thread, lock=self._lock)

    async def save(self, rating: NewRating) -> SavedRating:
        """Save one rating, committed. If the transaction fails, all ratings of the group fail and none is stored."""
        return await self._groups.submit(rating[:2], rating)

    async def save_many(self, ratings: Sequence[NewRating]) -> BatchCounts:
        """As `store.save_many`, committed. Waits on the event loop, so that batches do not occupy shared threads."""
        async with self._lock:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._commit_many, ratings)

    def close(self) -> None:
        """End the thread once it has written what it is writing."""
        self._thread.shutdown()

    def _commit(self, ratings: Sequence[NewRating]) -> Sequence[SavedRating]:
        with self._database.write_at_once() as connection:
            return self._upsert.upsert_each(connection, ratings)

    def _commit_many(self, ratings: Sequence[NewRating]) -> BatchCounts:
        with self._database.write_at_once() as connection:
            return save_many(connection, ratings)
