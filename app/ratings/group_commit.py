"""Ratings of requests that arrive together, written together.

A commit waits for the disk, and writers take turns. So what arrives while one transaction is on its way goes into the
next one as a whole. Each request still is in one transaction, which is committed before it is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from concurrent.futures import ThreadPoolExecutor

from app.db.engine import Database
from app.ratings import store
from app.ratings.store import BatchCounts, NewRating, SavedRating


async def all_have_come(gathered: Sized) -> None:
    """Wait for requests that are being read at this moment, as long as they add to what is gathered."""
    n = 0
    while n < len(gathered):
        n = len(gathered)
        await asyncio.sleep(0)


class _Group:
    """Ratings of different pairs, of which each gets its answer from the one transaction that writes them."""

    def __init__(self) -> None:
        self.ratings: dict[tuple[str, str], NewRating] = {}
        self.written: asyncio.Task[list[SavedRating]]


class RatingWriter:
    """Saves single ratings for the requests of one event loop; with many at once, in few transactions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1, "rating-writer")  # half as far away as the threads that all share
        self._turn = asyncio.Lock()
        self._open: _Group | None = None  # takes ratings until its turn comes

    async def save(self, rating: NewRating) -> SavedRating:
        """As `store.save`, committed. What fails, fails for all that were to be written together, and stores none."""
        group = self._open
        if group is None or rating[:2] in group.ratings:  # opinions of one pair are given one after the other
            group = self._open = _Group()
            group.written = asyncio.create_task(self._write(group))
        place = len(group.ratings)
        group.ratings[rating[:2]] = rating
        # A request that is given up must not take the others along.
        return (await asyncio.shield(group.written))[place]

    async def save_many(self, ratings: list[NewRating]) -> BatchCounts:
        """As `store.save_many`, committed; one thread writes for all, so they do not wait for each other in threads."""
        async with self._turn:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._commit_many, ratings)

    def close(self) -> None:
        """Give the thread back; what it is writing comes to its end."""
        self._thread.shutdown()

    async def _write(self, group: _Group) -> list[SavedRating]:
        async with self._turn:
            await all_have_come(group.ratings)
            if self._open is group:
                self._open = None
            ratings = list(group.ratings.values())
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, ratings)

    def _commit(self, ratings: list[NewRating]) -> list[SavedRating]:
        with self._database.write_at_once() as connection:
            return store.save_each(connection, ratings)

    def _commit_many(self, ratings: list[NewRating]) -> BatchCounts:
        with self._database.write_at_once() as connection:
            return store.save_many(connection, ratings)
