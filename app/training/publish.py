"""Publishing the model of a run: its version folder, its row and activation, and the removal of old versions."""

from __future__ import annotations

import dataclasses
import logging
import platform
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numba
import numpy as np
from sqlalchemy import Connection

from app import __version__
from app.db.engine import DATABASE_IS_AWAY, Database
from app.db.tables import utc_now
from app.engine.factors import FactorModel
from app.engine.recipe import Recipe
from app.registry import artifacts, versions
from app.registry.artifacts import VersionContents
from app.registry.metrics import RunMetrics
from app.settings import Settings
from app.training import queue
from app.training.lease import Lease, RunStopped
from app.training.posterior_stage import TrainedModel
from app.training.snapshot.take import TrainingSnapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WrittenVersion:
    """A version on disk that has no row yet."""

    folder: str
    manifest: dict[str, Any]
    created_at: datetime


def remove_leftovers(lease: Lease, versions_dir: Path) -> None:
    """Remove the version folders of trainers that were killed before they could publish them.

    The folders are listed before the transaction that renews the lease. A folder without a row at that time belongs to
    a trainer that has lost its lease and can never publish it.
    """
    folders = artifacts.folders(versions_dir)
    published = set(lease.write(lambda connection, _: versions.folders(connection)))
    for folder in folders:
        if folder.name not in published:
            log.info("removing the version folder %s, which was never published", folder.name)
            artifacts.remove(folder)


def contents_of(
    snapshot: TrainingSnapshot, published: TrainedModel, evaluated: TrainedModel | None, *, with_starts: bool
) -> VersionContents:
    """What the version stores; `with_starts` adds the fits that a later warm run starts from."""
    fits: dict[str, FactorModel] = {}
    if evaluated and not with_starts:  # folding in needs the item side only
        model = evaluated.model
        users = {name: getattr(model, name)[:0] for name in ("user_bias", "user_factors", "user_counts")}
        fits = {"holdout_fit": dataclasses.replace(model, **users)}
    elif evaluated:
        fits = {"holdout_fit": evaluated.model}
        if evaluated.average:
            fits |= {"published_start": published.fit.model, "holdout_start": evaluated.fit.model}
    return VersionContents(published.model, snapshot.user_keys, snapshot.item_keys, snapshot.item_ids, **fits)


def write_version(
    versions_dir: Path,
    contents: VersionContents,
    snapshot: TrainingSnapshot,
    recipe: Recipe,
    metrics: RunMetrics,
    learning_curve: Sequence[Mapping[str, Any]],
) -> WrittenVersion:
    """Write the version folder, with a manifest of how the model was made."""
    created_at = utc_now()
    folder = f"{created_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    stored_metrics = metrics.to_json()
    facts = {
        "created_at": created_at.isoformat(),
        "trained_through": snapshot.revision,
        "n_ratings": len(snapshot.ratings),
        "data_digest": snapshot.digest(),
        "loss": recipe.loss.to_dict(),
        "start": stored_metrics["start"],
        "seed": recipe.hyperparameters.seed,
        "hyperparameters": recipe.hyperparameters.to_dict(),
        "metrics": stored_metrics,
        "learning_curve": list(learning_curve),
        "software": {
            "palate": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": numba.__version__,
        },
    }
    return WrittenVersion(folder, artifacts.write(versions_dir, folder, contents, facts), created_at)


def activate(lease: Lease, written: WrittenVersion, metrics: RunMetrics) -> int:
    """Insert and activate the version and finish the run, in the transaction that renews the lease.

    Returns the version number; raises RunStopped if the run is to be cancelled.
    """

    def insert(connection: Connection, now: datetime) -> int:
        if lease.is_cancel_requested:
            raise RunStopped
        version = versions.publish(
            connection,
            run_id=lease.claim.run_id,
            folder=written.folder,
            manifest=written.manifest,
            created_at=written.created_at,
        )
        queue.finish(connection, lease.claim, "succeeded", now, version=version, metrics=metrics.to_json())
        return version

    return lease.write(insert)


def prune(database: Database, settings: Settings) -> None:
    """Remove old versions and runs, as the settings say."""
    try:
        pruned = versions.prune(database, settings.versions_dir, settings.versions.keep)
        with database.write() as connection:
            queue.prune(connection, settings.runs.keep)
    except DATABASE_IS_AWAY as error:  # the next run does it
        log.warning("old versions and runs cannot be pruned: %s", error.orig)
    else:
        if pruned:
            log.info("pruned model versions %s", ", ".join(map(str, pruned)))
