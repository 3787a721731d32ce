"""Ratings of requests that arrive together, written in one transaction.

A commit waits for the disk, and writers wait for each other. So the ratings that arrive while one transaction is in
progress go into the next one together. Each is committed before its request is answered. If the transaction fails, all
ratings of the group fail and none is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from app.coalescer import Coalescer
from app.db.engine import Database
from app.imports.line_import import BatchCounts
from app.ratings.models import NewRating, SavedRating
from app.ratings.store import save_many, upsert_for

GroupCommitWriter = Coalescer[NewRating, SavedRating]


def open_writer(database: Database) -> GroupCommitWriter:
    """Saves ratings for the requests of one event loop; the key of a rating is the pair of its ids."""
    return Coalescer(partial(upsert_for(database.engine).commit_each, database), "rating-writer")


def commit_many(database: Database, ratings: Sequence[NewRating]) -> BatchCounts:
    """As `store.save_many`, committed."""
    with database.write_at_once() as connection:
        return save_many(connection, ratings)
