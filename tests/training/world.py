"""Small worlds to train on, and ways to look at what training did to the database."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from app.db.engine import Database
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.base import Loss
from app.engine.losses.catalog import SQUARED
from app.items import store as items
from app.ratings import store
from app.ratings.models import NewRating
from app.registry import versions
from app.settings import Settings
from app.training import queue
from app.training.queue import Claim, RunRow
from app.training.run import execute

QUICK = Hyperparameters(n_factors=4, n_epochs=8, patience=8, posterior="off")
ENDLESS = Hyperparameters(n_factors=64, n_epochs=10_000, patience=10_000)
"""Goes on for longer than any test waits, where there are some thousand ratings."""


def ratings_of(n_users: int = 60, n_items: int = 40, share: float = 0.5, seed: int = 0) -> list[NewRating]:
    """Two kinds of users, two kinds of items: like rates like 4 to 5, and the other kind 1 to 2."""
    random = np.random.default_rng(seed)
    return [
        NewRating(f"user-{u}", f"item-{i}", float(random.uniform(4, 5) if (u + i) % 2 == 0 else random.uniform(1, 2)))
        for u in range(n_users)
        for i in range(n_items)
        if random.random() < share
    ]


def fill(database: Database, ratings: list[NewRating] | None = None) -> None:
    with database.write() as connection:
        store.save_many(connection, ratings_of() if ratings is None else ratings)


def enqueue(
    database: Database, chosen: Hyperparameters = QUICK, requested_by: Any = "api", loss: Loss = SQUARED
) -> RunRow:
    with database.write() as connection:
        return queue.enqueue(connection, requested_by, chosen, database.now(connection), loss)


def claim(database: Database, settings: Settings, worker: str = "me") -> Claim:
    with database.write() as connection:
        claimed = queue.claim(connection, worker, settings.training.lease, database.now(connection))
    assert claimed is not None
    return claimed


def train(database: Database, settings: Settings, chosen: Hyperparameters = QUICK, loss: Loss = SQUARED) -> RunRow:
    """One run from the request to its outcome, in this thread."""
    run = enqueue(database, chosen, loss=loss)
    execute(database, settings, claim(database, settings), is_stopping=lambda: False)
    return run_of(database, run.id)


def run_of(database: Database, run_id: int) -> RunRow:
    with database.read() as connection:
        return queue.get(connection, run_id)


def epochs_of(database: Database, run_id: int) -> list[tuple[str, int]]:
    with database.read() as connection:
        return [(epoch.phase, epoch.epoch) for epoch in queue.epochs_of(connection, run_id)]


def listed(database: Database) -> list[int]:
    with database.read() as connection:
        return [row.version for row in versions.history(connection, limit=100)]


def active(database: Database) -> int | None:
    with database.read() as connection:
        return versions.active_number(connection)


def start_worker(settings: Settings) -> subprocess.Popen[bytes]:
    """A real trainer process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app.worker", "--settings-from-stdin"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(settings.model_dump_json().encode())
    return process


def wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def categorise(database: Database, **categories: list[str]) -> None:
    with database.write() as connection:
        items.write_many(connection, {item_id: {"categories": names} for item_id, names in categories.items()})
