"""Request and response bodies of the training endpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model
from sqlalchemy import Row

from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.base import Link, Loss
from app.engine.losses.catalog import BY_NAME, PENALTIES
from app.engine.losses.declare import declare
from app.engine.losses.grammar import MAX_LENGTH, InvalidLoss
from app.errors import BadInput
from app.http.pages import NextCursor
from app.registry.metrics import METRICS_EXAMPLE, RunMetrics
from app.registry.schemas import LOSS_EXAMPLE, LossOut
from app.settings import RatingScale
from app.training.models import FINISHED, Phase, RequestedBy, RunKind, RunStatus
from app.training.queue import RunRow, loss_of


class LossIn(BaseModel):
    """The loss to minimize; see docs/losses.md for names, grammar and defaults."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"error": "huber", "parameters": {"delta": 1.5}}, {"error": "log(cosh(r - r_hat))"}]
        },
    )

    error: str = Field(
        "squared", max_length=MAX_LENGTH, description=f"An expression in `r` and `r_hat`, or {', '.join(BY_NAME)}."
    )
    penalty: str = Field(
        "l2",
        max_length=MAX_LENGTH,
        description=f"An expression in `theta`, or in `p`, `q`, `b_u`, `b_i`, or {', '.join(PENALTIES)}.",
    )
    link: Link | None = Field(None, description="From score to prediction; by default that of the loss (`identity`).")
    parameters: dict[str, float] = Field(
        {}, max_length=10, description="Values of the named parameters of the expressions.", examples=[{"delta": 1.5}]
    )

    def declared(self, scale: RatingScale) -> Loss:
        """The declared loss; raises BadInput with the field and the position in its text."""
        try:
            return declare(
                self.error,
                penalty=self.penalty,
                link=self.link,
                parameters=self.parameters,
                rating_range=(scale.min, scale.max),
            )
        except InvalidLoss as invalid:
            field = "parameters" if invalid.text in self.parameters else "error"
            field = "penalty" if invalid.text == self.penalty and field == "error" else field
            raise BadInput.at(f"loss.{field}", str(invalid)) from invalid


class _Hyperparameters(BaseModel):
    """Hyperparameters that differ from the settings of the service; omit the others."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{}, {"n_factors": 32, "n_epochs": 20, "seed": 7}]}
    )

    def over(self, defaults: Mapping[str, Any]) -> Hyperparameters:
        """The defaults, with the fields of this body replacing them."""
        return Hyperparameters.from_dict({**defaults, **self.model_dump(exclude_none=True, exclude={"loss"})})


def _optional(field: dataclasses.Field[Any], kind: Any) -> tuple[Any, Any]:
    """Type and field of the request body, with range and description of the engine; null means the default."""
    low, high = field.metadata.get("low"), field.metadata.get("high")
    described = f"{field.metadata['doc'].capitalize()} (default {field.default})."
    return kind | None, Field(None, ge=low, le=high, description=described)


if TYPE_CHECKING:
    HyperparametersIn = _Hyperparameters
else:
    _KINDS = get_type_hints(Hyperparameters)
    HyperparametersIn = create_model(
        "HyperparametersIn",
        __base__=_Hyperparameters,
        __doc__=_Hyperparameters.__doc__,
        **{field.name: _optional(field, _KINDS[field.name]) for field in dataclasses.fields(Hyperparameters)},
    )


class NewTrainingRun(HyperparametersIn):
    """Hyperparameters and loss that differ from the settings of the service; omit the others."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                {"n_factors": 32, "n_epochs": 20, "seed": 7},
                {"loss": {"error": "log(cosh(r - r_hat))"}},
                {"loss": {"error": "huber", "parameters": {"delta": 1.5}, "penalty": "elastic_net"}},
            ]
        }
    )

    loss: LossIn | None = Field(None, description="What to minimize (default: PALATE_TRAINING_LOSS).")


class EpochOut(BaseModel):
    """One pass over the ratings: an epoch of a fit, or a sweep of posterior averaging."""

    model_config = ConfigDict(from_attributes=True)

    phase: Phase = Field(
        description=(
            "`fit`: epochs without the hold-out; `sample`: sweeps of posterior averaging without it; "
            "`final`, `resample`: the same with all ratings."
        ),
        examples=["fit"],
    )
    epoch: int = Field(description="Counted from 1.", examples=[12])
    n_epochs: int = Field(description="Maximum number of epochs of the phase.", examples=[30])
    learning_rate: float = Field(description="Learning rate of the epoch; 0 for a sweep.", examples=[0.019])
    train_rmse: float = Field(
        description="RMSE on the training ratings during the epoch; for a sweep, the sampled noise.", examples=[0.71]
    )
    holdout_rmse: float | None = Field(
        description="RMSE on the hold-out after the epoch; for a sweep, that of the mean of all samples so far.",
        examples=[0.86],
    )
    ratings_per_second: float = Field(description="Training speed.", examples=[48_000_000.0])
    finished_at: datetime = Field(description="When the epoch ended.", examples=["2026-01-31T12:00:01Z"])


class TrainingRunOut(BaseModel):
    """A training run and its outcome."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": 12,
                    "kind": "train",
                    "status": "succeeded",
                    "requested_by": "api",
                    "hyperparameters": {"n_factors": 64, "n_epochs": 30, "seed": 0},
                    "loss": LOSS_EXAMPLE,
                    "created_at": "2026-01-31T12:00:00Z",
                    "started_at": "2026-01-31T12:00:00.2Z",
                    "finished_at": "2026-01-31T12:00:02Z",
                    "is_cancel_requested": False,
                    "attempt": 1,
                    "progress": 1.0,
                    "n_ratings": 100836,
                    "trained_through": 4711,
                    "metrics": METRICS_EXAMPLE,
                    "version": 7,
                    "error": None,
                }
            ]
        }
    )

    id: int = Field(description="Id of the run; never reused.")
    kind: RunKind = Field(description="`search`: a hyperparameter search, see `/v1/searches/{id}`.")
    status: RunStatus = Field(
        description="`rejected`: fitted, but not published because it is clearly worse than the active version."
    )
    requested_by: RequestedBy = Field(description="Who requested it: the API, the command line, or the retrain policy.")
    hyperparameters: dict[str, Any] = Field(description="All hyperparameters of the fit.")
    loss: LossOut = Field(description="The loss that it minimizes.")
    created_at: datetime = Field(description="When it was requested.")
    started_at: datetime | None = Field(description="When a trainer last claimed it.")
    finished_at: datetime | None = Field(description="When it ended.")
    is_cancel_requested: bool = Field(description="Whether its cancellation was requested.")
    attempt: int = Field(description="How often a trainer claimed it; above 1 after a crash or a restart.")
    progress: float = Field(description="Share of the work done, from 0 to 1; jumps ahead on early stopping.")
    n_ratings: int | None = Field(description="Number of ratings that it trains on.")
    trained_through: int | None = Field(description="The last rating revision that it includes.")
    metrics: RunMetrics = Field(description="Errors on the hold-out, and seconds of each phase.")
    version: int | None = Field(description="The model version that it published.")
    error: str | None = Field(description="Why it failed or was rejected.")

    @classmethod
    def of(cls, row: RunRow, epochs: Sequence[Row[Any]] = ()) -> Self:
        """`epochs` of a running run, all or the last of each phase, give its progress."""
        loss = LossOut.of(loss_of(row).to_dict())
        return cls(**{**row._mapping, "loss": loss, "progress": progress_of(row, epochs), "epochs": epochs})


class TrainingRunDetail(TrainingRunOut):
    """A training run with its epochs."""

    epochs: list[EpochOut] = Field(description="Epochs in chronological order.")


class TrainingRunList(BaseModel):
    """A page of training runs, newest first."""

    runs: list[TrainingRunOut] = Field(description="The runs of this page.")
    next_cursor: NextCursor


_WEIGHTS: dict[Phase, float] = {"fit": 1.0, "sample": 4.0, "final": 1.0, "resample": 4.0}
"""Approximate time of each phase, for up to some millions of ratings."""


def progress_of(row: RunRow, epochs: Sequence[Row[Any]]) -> float:
    """Share of the epochs done, each phase weighted by its approximate time."""
    if row.status == "succeeded":
        return 1.0
    if row.status in FINISHED or not epochs:
        return 0.0
    last = epochs[-1]
    planned = _planned_phases(row, {epoch.phase for epoch in epochs})
    done = sum(_WEIGHTS[phase] for phase in planned[: planned.index(last.phase)])
    share: float = done + _WEIGHTS[last.phase] * last.epoch / last.n_epochs
    return round(share / sum(_WEIGHTS[phase] for phase in planned), 4)


def _planned_phases(row: RunRow, so_far: Set[str]) -> list[Phase]:
    """The phases that a run will have had in the end, as far as can be predicted from those so far."""
    is_possible = row.hyperparameters.get("posterior") != "off" and loss_of(row).is_squared
    averages = bool(so_far & {"sample", "resample"}) or (is_possible and not so_far >= {"fit", "final"})
    phases: list[Phase] = ["fit", "sample", "final", "resample"] if averages else ["fit", "final"]
    return [phase for phase in phases if phase in {"final", "resample"} or "fit" in so_far]
