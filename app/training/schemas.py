"""What the training endpoints take and answer with."""

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
from app.registry.metrics import METRICS_EXAMPLE, RunMetrics
from app.registry.schemas import LOSS_EXAMPLE, LossOut
from app.settings import RatingScale
from app.training.models import FINISHED, Phase, RequestedBy, RunKind, RunStatus
from app.training.queue import RunRow, loss_of


class LossIn(BaseModel):
    """What to minimise; docs/losses.md tells names and grammar. What is left out is the catalog's default."""

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
    link: Link | None = Field(None, description="From score to prediction; left out, the loss's own (`identity`).")
    parameters: dict[str, float] = Field(
        {}, max_length=10, description="Numbers that the expressions call by name.", examples=[{"delta": 1.5}]
    )

    def declared(self, scale: RatingScale) -> Loss:
        """Raises BadInput with the field, and the position in its text."""
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


class _Given(BaseModel):
    """What a fit shall do differently from the service's own settings; leave out what may stay as it is."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{}, {"n_factors": 32, "n_epochs": 20, "seed": 7}]},
    )

    def over(self, defaults: Mapping[str, Any]) -> Hyperparameters:
        """The defaults, with what was given put over them."""
        return Hyperparameters.from_dict({**defaults, **self.model_dump(exclude_none=True, exclude={"loss"})})


def _optional(field: dataclasses.Field[Any], kind: Any) -> tuple[Any, Any]:
    """A field of the request: the engine's own range and words, and null for "the default"."""
    low, high = field.metadata.get("low"), field.metadata.get("high")
    described = f"{field.metadata['doc'].capitalize()} (default {field.default})."
    return kind | None, Field(None, ge=low, le=high, description=described)


if TYPE_CHECKING:
    HyperparametersIn = _Given
else:
    _KINDS = get_type_hints(Hyperparameters)
    HyperparametersIn = create_model(
        "HyperparametersIn",
        __base__=_Given,
        __doc__=_Given.__doc__,
        **{field.name: _optional(field, _KINDS[field.name]) for field in dataclasses.fields(Hyperparameters)},
    )


class NewTrainingRun(HyperparametersIn):
    """What a run shall do differently from the service's own settings; leave out what may stay as it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                {"n_factors": 32, "n_epochs": 20, "seed": 7},
                {"loss": {"error": "log(cosh(r - r_hat))"}},
                {"loss": {"error": "huber", "parameters": {"delta": 1.5}, "penalty": "elastic_net"}},
            ]
        },
    )

    loss: LossIn | None = Field(None, description="What to minimise (default: PALATE_TRAINING_LOSS).")


class EpochOut(BaseModel):
    """One pass over the ratings: an epoch of a fit, or a sweep of posterior averaging."""

    phase: Phase = Field(
        description=(
            "`fit`: epochs watched by the hold-out; `sample`: sweeps of averaging over models, watched by it too; "
            "`final`, `resample`: the same with every rating."
        ),
        examples=["fit"],
    )
    epoch: int = Field(description="Counted from 1.", examples=[12])
    n_epochs: int = Field(description="Epochs that the phase takes at most.", examples=[30])
    learning_rate: float = Field(description="Step size of the epoch; 0 of a sweep, which has none.", examples=[0.019])
    train_rmse: float = Field(
        description="Error on the ratings as they were learned; of a sweep, by the noise that it drew.", examples=[0.71]
    )
    holdout_rmse: float | None = Field(
        description="Error on the hold-out after the epoch; of a sweep, that of the mean of all models so far.",
        examples=[0.86],
    )
    ratings_per_second: float = Field(description="Speed of the epoch.", examples=[48_000_000.0])
    finished_at: datetime = Field(description="When the epoch ended.", examples=["2026-01-31T12:00:01Z"])

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        return cls.model_validate(row, from_attributes=True)


class TrainingRunOut(BaseModel):
    """A training run, from request to outcome."""

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

    id: int = Field(description="Number of the run; never given out twice.")
    kind: RunKind = Field(description="`search`: hyperparameters are looked for first; see `/v1/searches/{id}`.")
    status: RunStatus = Field(
        description="`rejected`: fitted, but clearly worse than the active version, so not published."
    )
    requested_by: RequestedBy = Field(description="Who asked for it: the API, the command line, or the retrain policy.")
    hyperparameters: dict[str, Any] = Field(description="Everything that was chosen about the fit.")
    loss: LossOut = Field(description="What it minimises.")
    created_at: datetime = Field(description="When it was asked for.")
    started_at: datetime | None = Field(description="When a trainer last took it up.")
    finished_at: datetime | None = Field(description="When it ended.")
    is_cancel_requested: bool = Field(description="Whether somebody asked for its end.")
    attempt: int = Field(description="How often a trainer took it up; above 1 after a crash or a restart.")
    progress: float = Field(description="Share of the epochs done, from 0 to 1; early stopping jumps ahead.")
    n_ratings: int | None = Field(description="Ratings that it learns.")
    trained_through: int | None = Field(description="The last rating revision that it sees.")
    metrics: RunMetrics = Field(description="Errors on the hold-out, and seconds per step of the run.")
    version: int | None = Field(description="The model version that it published.")
    error: str | None = Field(description="Why it failed or was rejected.")

    @classmethod
    def of(cls, row: RunRow, epochs: Sequence[Row[Any]] = ()) -> Self:
        """`epochs` of a running run say how far it is: all of them, or the last of each phase."""
        return cls(**{**_facts(row), "progress": progress_of(row, epochs)})


class TrainingRunDetail(TrainingRunOut):
    """A training run with its epochs."""

    epochs: list[EpochOut] = Field(description="What each epoch did, in order.")

    @classmethod
    def of(cls, row: RunRow, epochs: Sequence[Row[Any]] = ()) -> Self:
        shown = [EpochOut.of(epoch) for epoch in epochs]
        return cls(**{**_facts(row), "progress": progress_of(row, epochs), "epochs": shown})


class TrainingRunList(BaseModel):
    """A page of training runs, newest first."""

    runs: list[TrainingRunOut] = Field(description="The runs of this page.")
    next_cursor: str | None = Field(
        description="Pass it as `cursor` for the next page; null on the last.", examples=[None]
    )


def _facts(row: RunRow) -> dict[str, Any]:
    return {**row._mapping, "loss": LossOut.of(loss_of(row).to_dict())}


_WEIGHTS: dict[Phase, float] = {"fit": 1.0, "sample": 4.0, "final": 1.0, "resample": 4.0}
"""About how the time of a run is shared out, where there are not many millions of ratings."""


def progress_of(row: RunRow, epochs: Sequence[Row[Any]]) -> float:
    """Share of the epochs done, each phase by about the time that it takes."""
    if row.status == "succeeded":
        return 1.0
    if row.status in FINISHED or not epochs:
        return 0.0
    last = epochs[-1]
    planned = _planned_phases(row, {epoch.phase for epoch in epochs})
    done = sum(_WEIGHTS[phase] for phase in planned[: planned.index(last.phase)])
    share: float = done + _WEIGHTS[last.phase] * last.epoch / last.n_epochs
    return round(share / sum(_WEIGHTS[phase] for phase in planned), 4)


def _planned_phases(row: RunRow, seen: Set[str]) -> list[Phase]:
    """What a run that has come so far will have done in the end, as far as can be told."""
    is_asked_for = row.hyperparameters.get("posterior") != "off" and loss_of(row).is_squared
    averages = bool(seen & {"sample", "resample"}) or (is_asked_for and not seen >= {"fit", "final"})
    phases: list[Phase] = ["fit", "sample", "final", "resample"] if averages else ["fit", "final"]
    return [phase for phase in phases if phase in {"final", "resample"} or "fit" in seen]
