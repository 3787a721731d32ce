"""Response bodies of the probes and of the status."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Liveness(BaseModel):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether requests can be served, and each condition for it."""

    is_ready: bool
    database: bool = Field(description="The database answers.")
    kernels: bool = Field(description="The compiled code for serving is loaded.")


class RatingScaleOut(BaseModel):
    """The scale of ratings."""

    min: float = Field(description="Lowest rating.", examples=[0.5])
    max: float = Field(description="Highest rating.", examples=[5.0])
    step: float | None = Field(description="Distance between ratings; null: any value in the range.", examples=[0.5])


class StatusOut(BaseModel):
    """Counts and versions."""

    service_version: str = Field(description="Version of Palate.", examples=["0.1.0"])
    database: str = Field(description="Kind of database.", examples=["sqlite"])
    rating_scale: RatingScaleOut
    n_ratings: int = Field(examples=[100836])
    n_users: int = Field(examples=[610])
    n_items: int = Field(examples=[9742])
    revision: int = Field(description="Latest rating revision.", examples=[100836])
    model_version: int | None = Field(description="The version that this process serves.", examples=[3])
    trained_through: int | None = Field(description="The last revision that it was trained on.", examples=[100800])
    changes_since_training: int = Field(description="Ratings changed since then.", examples=[36])
    training_run: int | None = Field(description="The running training run, if any.", examples=[None])
    problem: str | None = Field(description="Why the active version is not the one served, if so.", examples=[None])
