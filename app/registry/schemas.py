"""Response bodies of the model endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from app.engine.losses.base import Link, Loss
from app.http.pages import NextCursor
from app.registry.metrics import METRICS_EXAMPLE, RunMetrics
from app.registry.versions import VersionRow


class CurvePoint(BaseModel):
    """One epoch of the run that made a version, or one sweep of its posterior averaging."""

    phase: str = Field(
        description=(
            "`fit`: without the hold-out; `sample`: sweeps of posterior averaging without it; `final`, `resample`: the "
            "same with all ratings."
        ),
        examples=["fit"],
    )
    epoch: int = Field(description="Numbered from 1 in each phase.", examples=[12])
    learning_rate: float = Field(description="Learning rate of the epoch; 0 for a sweep.", examples=[0.019])
    train_rmse: float = Field(description="RMSE on the training ratings.", examples=[0.71])
    holdout_rmse: float | None = Field(description="RMSE on the hold-out after the epoch.", examples=[0.86])


LOSS_EXAMPLE: dict[str, Any] = {
    "name": "huber",
    "error": "huber(r - r_hat, delta)",
    "penalty": "theta**2 / 2",
    "link": "identity",
    "parameters": {"delta": 1.0},
}


class LossOut(BaseModel):
    """What a fit minimizes: an error of every rating, and a penalty on every parameter."""

    model_config = ConfigDict(json_schema_extra={"examples": [LOSS_EXAMPLE]})

    name: str = Field(description="Its name in the catalog; `declared` for an expression.")
    error: str = Field(description="The error of one rating, in `r` and `r_hat`.")
    penalty: str = Field(description="The penalty on one parameter `theta`, or on `p`, `q`, `b_u` and `b_i`.")
    link: Link = Field(description="From score to rating: `identity`, `sigmoid` (stays in the rating range) or `exp`.")
    parameters: dict[str, float] = Field(description="Values of the named parameters of the expressions.")

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        return cls.model_validate(Loss.from_dict(stored).to_dict())


class Model(BaseModel):
    """A published model version."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "version": 7,
                    "is_active": True,
                    "created_at": "2026-01-31T12:00:00Z",
                    "run_id": 12,
                    "trained_through": 4711,
                    "digest": "9f2c7c1f0d6f7d0a9f2c7c1f0d6f7d0a9f2c7c1f0d6f7d0a9f2c7c1f0d6f7d0a",
                    "data_digest": "0d6f7d0a9f2c7c1f0d6f7d0a9f2c7c1f0d6f7d0a9f2c7c1f0d6f7d0a9f2c7c1f",
                    "loss": LOSS_EXAMPLE,
                    "n_ratings": 100836,
                    "n_users": 610,
                    "n_items": 9724,
                    "n_factors": 64,
                    "size_bytes": 5242880,
                    "hyperparameters": {"n_factors": 64, "n_epochs": 30, "seed": 0},
                    "metrics": METRICS_EXAMPLE,
                    "software": {"palate": "0.1.0", "python": "3.11.7", "numpy": "2.4.6", "numba": "0.68.1"},
                }
            ]
        },
    )

    version: int = Field(description="Number of the version; never reused.")
    is_active: bool = Field(description="Whether it is the active version.")
    created_at: datetime = Field(description="When it was published.")
    run_id: int | None = Field(description="The training run that made it.")
    trained_through: int = Field(description="The last rating revision that it was trained on.")
    digest: str = Field(description="SHA-256 of the model's numbers: equal for equal models.")
    data_digest: str = Field(description="SHA-256 of the ratings that it was trained on.")
    loss: LossOut = Field(description="What was minimized.")
    n_ratings: int = Field(description="Ratings that it was trained on.")
    n_users: int = Field(description="Users with at least one rating.")
    n_items: int = Field(description="Items with at least one rating.")
    n_factors: int = Field(description="Length of the user and item vectors.")
    size_bytes: int = Field(description="Size of its files.")
    hyperparameters: dict[str, Any] = Field(description="All hyperparameters of the fit, including the seed.")
    metrics: RunMetrics = Field(description="Errors on the hold-out, and seconds per phase of the run.")
    software: dict[str, str] = Field(description="Versions of the software that trained it.")

    @classmethod
    def of(cls, row: VersionRow) -> Self:
        size = sum(file["bytes"] for file in row.manifest["files"].values())
        return cls(**{**row.manifest, **row._mapping, "size_bytes": size, "loss": LossOut.of(row.manifest["loss"])})


class ModelDetail(Model):
    """A published model version with its learning curve."""

    learning_curve: list[CurvePoint] = Field(description="All epochs of the run, in order.")


class ModelList(BaseModel):
    """A page of versions, newest first."""

    models: list[Model] = Field(description="The versions of this page.")
    next_cursor: NextCursor

    @classmethod
    def of(cls, rows: list[VersionRow], limit: int) -> Self:
        """A page of `limit` + 1 rows at most: an extra row means that there is a next page."""
        shown = rows[:limit]
        cursor = str(shown[-1].version) if len(rows) > limit else None
        return cls(models=[Model.of(row) for row in shown], next_cursor=cursor)
