"""Figures beyond single requests: what the database knows, the trainer's work included, and what each process holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Row
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from app.db.engine import MAX_CONNECTIONS, Database
from app.db.revisions import revision
from app.metrics.instruments import CONNECTIONS, MOST_CONNECTIONS, SERVED_VERSION
from app.registry import versions
from app.registry.live import LiveModel
from app.registry.versions import VersionRow
from app.training import queue
from app.training.queue import RunRow

NOTED_EVERY = 1.0
"""Seconds between two looks at the pool and the served version: a scrape sees a state at most that old."""


class SharedFigures(Collector):
    """What is in the database: the same from every process, so that a trainer on another host needs no port of its own.

    While the database is away there is only `palate_database_up 0`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> list[Metric]:
        return []  # names are not asked for in advance: that would be a question to the database

    def collect(self) -> Iterator[Metric]:
        try:
            with self._database.read() as connection:
                found = [*_ratings(connection), *_runs(connection)]
                now = self._database.now(connection)
                if active := versions.find_active(connection):
                    found += _active_version(active, (now - active.created_at).total_seconds())
        except SQLAlchemyError:
            yield _gauge("database_up", "Whether the database answers.", 0)
            return
        yield _gauge("database_up", "Whether the database answers.", 1)
        yield from found


def _ratings(connection: Connection) -> Iterator[Metric]:
    yield _gauge("ratings", "Ratings stored.", revision(connection, "n_ratings"))
    yield _gauge("ratings_revision", "The latest rating revision.", revision(connection, "ratings"))


def _active_version(active: VersionRow, age: float) -> Iterator[Metric]:
    yield _gauge("model_version", "The active version.", active.version)
    yield _gauge("model_age_seconds", "Time since the active version was published.", age)
    yield _gauge("model_trained_through", "The last rating revision that it has seen.", active.trained_through)
    rmse = active.manifest["metrics"].get("holdout_rmse")
    if rmse is not None:
        yield _gauge("model_holdout_rmse", "Its error on ratings held out.", rmse)


def _runs(connection: Connection) -> Iterator[Metric]:
    counts = GaugeMetricFamily("palate_training_runs", "Runs listed, by kind and status.", labels=["kind", "status"])
    for kind, status, n in queue.count_by_status(connection):
        counts.add_metric([kind, status], n)
    yield counts
    if last := queue.last_published(connection):
        yield from _published(last)
    if running := queue.running(connection):
        yield from _epochs(queue.last_epochs_of(connection, running.id))


def _published(run: RunRow) -> Iterator[Metric]:
    """Where the time of the latest run that published went: a run is an event, too rare for a histogram."""
    seconds: dict[str, float] = run.metrics.get("seconds", {})
    phases = GaugeMetricFamily("palate_training_phase_seconds", "Phases of the last published run.", labels=["phase"])
    for phase, spent in seconds.items():
        phases.add_metric([phase], spent)
    yield phases
    yield _gauge("training_ratings", "Ratings that it learned from.", run.n_ratings or 0)
    if run.finished_at is not None:
        yield _gauge("training_finished_timestamp_seconds", "When it ended.", run.finished_at.timestamp())


def _epochs(latest: list[Row[Any]]) -> Iterator[Metric]:
    labels = ["phase"]
    done = GaugeMetricFamily("palate_training_epoch", "Epochs that the running run has done.", labels=labels)
    speed = GaugeMetricFamily("palate_training_ratings_per_second", "Speed of its last epoch.", labels=labels)
    for epoch in latest:
        done.add_metric([epoch.phase], epoch.epoch)
        speed.add_metric([epoch.phase], epoch.ratings_per_second)
    yield from (done, speed)


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(f"palate_{name}", told, value=value)


async def keep_noting(database: Database, live: LiveModel) -> None:
    """Write down again and again what only this process can tell, for whichever process is asked; until cancelled."""
    MOST_CONNECTIONS.set(MAX_CONNECTIONS)
    while True:
        note(database, live)
        await asyncio.sleep(NOTED_EVERY)


def note(database: Database, live: LiveModel) -> None:
    pool = database.engine.pool
    assert isinstance(pool, QueuePool)
    CONNECTIONS.labels("in_use").set(pool.checkedout())
    CONNECTIONS.labels("idle").set(pool.checkedin())
    SERVED_VERSION.set(live.current.version if live.current else 0)
