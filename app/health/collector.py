"""Metrics besides requests: the state of the database, with the trainer's runs, and gauges of each process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from app.db.engine import MAX_CONNECTIONS as POOL_SIZE
from app.db.engine import Database
from app.db.revisions import revision
from app.metrics.instruments import CONNECTIONS, MAX_CONNECTIONS, SERVED_VERSION
from app.registry import versions
from app.registry.live_model import LiveModel
from app.registry.metrics import RunMetrics
from app.registry.versions import VersionRow
from app.training import queue
from app.training.queue import RunRow

UPDATE_INTERVAL = 1.0
"""Seconds between updates of the gauges: a scrape sees a state at most that old."""


class DatabaseCollector(Collector):
    """The state of the database: the same from every process, so a trainer on another host needs no port of its own.

    While the database is away there is only `palate_database_up 0`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> list[Metric]:
        return []  # the names would take a query

    def collect(self) -> Iterator[Metric]:
        try:
            with self._database.read() as connection:
                metrics = [
                    _gauge("ratings", "Ratings stored.", revision(connection, "n_ratings")),
                    _gauge("ratings_revision", "Latest rating revision.", revision(connection, "ratings")),
                    *_runs(connection),
                ]
                now = self._database.now(connection)
                if active := versions.find_active(connection):
                    metrics += _active_version(active, (now - active.created_at).total_seconds())
        except SQLAlchemyError:
            yield _gauge("database_up", "Whether the database answers.", 0)
            return
        yield _gauge("database_up", "Whether the database answers.", 1)
        yield from metrics


def _active_version(active: VersionRow, age: float) -> Iterator[Metric]:
    yield _gauge("model_version", "Active model version.", active.version)
    yield _gauge("model_age_seconds", "Time since the active version was published.", age)
    yield _gauge(
        "model_trained_through", "Last rating revision that the active version was trained on.", active.trained_through
    )
    rmse = RunMetrics.model_validate(active.manifest["metrics"]).holdout_rmse
    if rmse is not None:
        yield _gauge("model_holdout_rmse", "RMSE of the active version on held-out ratings.", rmse)


def _runs(connection: Connection) -> Iterator[Metric]:
    counts = GaugeMetricFamily("palate_training_runs", "Runs by kind and status.", labels=["kind", "status"])
    for kind, status, n in queue.count_by_status(connection):
        counts.add_metric([kind, status], n)
    yield counts
    if last := queue.last_published(connection):
        yield from _published(last)
    if running := queue.running(connection):
        done = GaugeMetricFamily("palate_training_epoch", "Epochs completed by the current run.", labels=["phase"])
        speed = GaugeMetricFamily(
            "palate_training_ratings_per_second", "Speed of the last epoch of the current run.", labels=["phase"]
        )
        for epoch in queue.last_epochs_of(connection, running.id):
            done.add_metric([epoch.phase], epoch.epoch)
            speed.add_metric([epoch.phase], epoch.ratings_per_second)
        yield from (done, speed)


def _published(run: RunRow) -> Iterator[Metric]:
    """Phases of the latest run that published: runs are too rare for a histogram."""
    seconds = RunMetrics.model_validate(run.metrics).seconds or {}
    phases = GaugeMetricFamily("palate_training_phase_seconds", "Phases of the last published run.", labels=["phase"])
    for phase, spent in seconds.items():
        phases.add_metric([phase], spent)
    yield phases
    yield _gauge("training_ratings", "Ratings that the last published run was trained on.", run.n_ratings or 0)
    if run.finished_at is not None:
        yield _gauge(
            "training_finished_timestamp_seconds", "When the last published run ended.", run.finished_at.timestamp()
        )


def _gauge(name: str, description: str, value: float) -> Metric:
    return GaugeMetricFamily(f"palate_{name}", description, value=value)


async def keep_gauges_updated(database: Database, live: LiveModel) -> None:
    """Update the gauges of this process, which whichever process is scraped reports; until cancelled."""
    MAX_CONNECTIONS.set(POOL_SIZE)
    while True:
        update_gauges(database, live)
        await asyncio.sleep(UPDATE_INTERVAL)


def update_gauges(database: Database, live: LiveModel) -> None:
    pool = database.engine.pool
    assert isinstance(pool, QueuePool)
    CONNECTIONS.labels("in_use").set(pool.checkedout())
    CONNECTIONS.labels("idle").set(pool.checkedin())
    SERVED_VERSION.set(live.current.version if live.current else 0)
