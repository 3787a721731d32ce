"""Tiny versions whose numbers say which one they are."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from app.db.engine import Database
from app.engine.data.ratings import Vocabulary
from app.engine.factors import FactorModel, UserPrior
from app.engine.losses.catalog import SQUARED
from app.registry import artifacts, versions
from app.registry.artifacts import Keys, VersionContents

ITEMS = ("alien", "brazil", "casablanca")
ITEM_KEYS: Keys = np.array([11, 5, 8])
USER_KEYS: Keys = np.array([4, 2])


def model(mean: float = 3.0, n_users: int = 2, n_items: int = 3, k: int = 2) -> FactorModel:
    """A model that predicts about `mean`, so that a test can tell one version from another."""
    return FactorModel(
        mean=mean,
        item_bias=np.arange(n_items, dtype=np.float32),
        item_factors=np.ones((n_items, k), np.float32),
        user_bias=np.zeros(n_users, np.float32),
        user_factors=np.zeros((n_users, k), np.float32),
        user_prior=UserPrior(np.zeros(k + 1), np.eye(k + 1)),
        noise_variance=0.5,
        item_counts=np.ones(n_items, np.int32),
        item_means=np.full(n_items, mean, np.float32),
        user_counts=np.ones(n_users, np.int32),
    )


def contents(mean: float = 3.0, holdout_fit: FactorModel | None = None) -> VersionContents:
    return VersionContents(model(mean), USER_KEYS, ITEM_KEYS, Vocabulary.of(ITEMS), holdout_fit)


def facts(**changed: Any) -> dict[str, Any]:
    return {
        "created_at": "2026-01-31T12:00:00+00:00",
        "trained_through": 7,
        "n_ratings": 6,
        "data_digest": "d" * 64,
        "loss": SQUARED.to_dict(),
        "seed": 0,
        "hyperparameters": {"n_factors": 2, "seed": 0},
        "metrics": {"holdout_rmse": 0.9},
        "learning_curve": [{"phase": "fit", "epoch": 1, "learning_rate": 0.03, "train_rmse": 1.0, "holdout_rmse": 0.9}],
        "software": {"palate": "0"},
        **changed,
    }


def publish(database: Database, versions_dir: Path, mean: float = 3.0, name: str | None = None) -> int:
    """Write and list a version, as a finished run does."""
    folder = name or f"version-{mean}"
    manifest = artifacts.write(versions_dir, folder, contents(mean), facts())
    with database.write() as connection:
        return versions.publish(
            connection, run_id=1, folder=folder, manifest=manifest, created_at=datetime(2026, 1, 31, tzinfo=UTC)
        )


def publish_many(database: Database, versions_dir: Path, means: Sequence[float]) -> list[int]:
    return [publish(database, versions_dir, mean) for mean in means]
