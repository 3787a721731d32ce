"""Request and response bodies of the search endpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr
from pydantic.config import JsonDict

from app.engine.search.space import DEFAULT_SPACE
from app.engine.search.trials import Pruning, Strategy, Trial, TrialStatus, best_of
from app.http.pages import NextCursor
from app.registry.schemas import LOSS_EXAMPLE, LossOut
from app.settings import Settings
from app.training.models import RequestedBy, RunStatus
from app.training.queue import loss_of
from app.training.schemas import HyperparametersIn, LossIn
from app.tuning.store import SearchRun, SearchSpec, base_of

_SPACE_EXAMPLE: JsonDict = {
    "n_factors": {"choices": [16, 32, 64]},
    "learning_rate": {"low": 0.01, "high": 0.1, "log": True},
    "n_epochs": {"low": 10, "high": 40, "step": 5},
}
_LOSSES_EXAMPLE: JsonDict = {
    "space": {
        "loss": {"choices": ["squared", "huber", "log_cosh"]},
        "loss.delta": {"low": 0.3, "high": 3, "log": True},
        "regularization": {"low": 0.01, "high": 0.3, "log": True},
    },
    "loss": {"penalty": "elastic_net"},
}
_EXAMPLE_TRIAL: JsonDict = {
    "number": 7,
    "parameters": {"n_factors": 32, "learning_rate": 0.031, "n_epochs": 25},
    "status": "complete",
    "value": 0.8591,
    "seconds": 1.4,
    "curve": [0.93, 0.9, 0.88, 0.87, 0.864, 0.862, 0.861, 0.86, 0.8595, 0.8593],
    "error": None,
}
_Number = StrictInt | StrictFloat


class DimensionIn(BaseModel):
    """The values to try for one name: numbers from `low` to `high`, or one of `choices`."""

    model_config = ConfigDict(extra="forbid")

    low: _Number | None = Field(None, description="Lowest value.", examples=[0.01])
    high: _Number | None = Field(None, description="Highest value.", examples=[0.1])
    log: bool | None = Field(None, description="Sample the logarithm uniformly.", examples=[True])
    step: _Number | None = Field(
        None, description="Only `low`, `low + step` and so on; a grid needs it for numbers that are not integers."
    )
    choices: list[_Number | StrictStr | None] | None = Field(None, description="The values, instead of a range.")


class NewSearch(BaseModel):
    """What to try, and how."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{}, {"space": _SPACE_EXAMPLE, "n_trials": 40, "publish": True}, _LOSSES_EXAMPLE]
        },
    )

    space: dict[str, DimensionIn] | None = Field(
        None,
        min_length=1,
        max_length=20,
        description="What to try: hyperparameters, `loss` (choices of names or expressions), and numbers of a loss "
        f"such as `loss.delta`; by default: {', '.join(DEFAULT_SPACE)}.",
    )
    strategy: Strategy = Field(
        "tpe",
        description="`grid`: every combination in order; `random`: sampled uniformly; "
        "`tpe`: sampled where earlier trials did well.",
    )
    n_trials: int = Field(40, ge=1, le=1_000, strict=True, description="Maximum number; a grid may have fewer points.")
    seed: int = Field(
        0, ge=0, le=2**63 - 1, strict=True, description="The same ratings, search and seed give the same trials."
    )
    n_folds: int = Field(
        3, ge=1, le=10, strict=True, description="Folds of the cross-validation; 1: one hold-out of `holdout_fraction`."
    )
    pruning: Pruning = Field(
        "median",
        description="Which trials end early, judged by the first fold: `median`: worse than the median of the complete "
        "ones at the same tenth of their epochs; `halving`: not in the better half at 20, 40 or 80 %; `none`.",
    )
    hyperparameters: HyperparametersIn = Field(
        default_factory=HyperparametersIn,
        description="Values that all trials share; the others come from the settings.",
    )
    loss: LossIn | None = Field(
        None, description="What trials minimize unless the space has `loss` (default: PALATE_TRAINING_LOSS)."
    )
    publish: bool = Field(
        False,
        strict=True,
        description="Train the best trial on all ratings and publish it if it passes the gate; later runs use it too.",
    )

    def spec(self, settings: Settings) -> SearchSpec:
        """The search, with the values of the settings where the body has none."""
        space = {name: each.model_dump(exclude_none=True) for name, each in (self.space or {}).items()}
        return SearchSpec(
            space=space or DEFAULT_SPACE,
            base=dataclasses.replace(
                settings.recipe,
                hyperparameters=self.hyperparameters.over(settings.hyperparameters),
                loss=self.loss.declared(settings.rating) if self.loss else settings.loss,
            ),
            defaults=settings.recipe,
            **self.model_dump(include={"strategy", "n_trials", "seed", "n_folds", "pruning", "publish"}),
        )


class TrialOut(BaseModel):
    """One set of values and its result."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_EXAMPLE_TRIAL]})

    number: int = Field(description="Counted from 0.")
    parameters: dict[str, Any] = Field(description="The values that it tried.")
    status: TrialStatus = Field(
        description="`pruned`: ended early; `failed`: diverged, or its loss is undefined on the ratings; see `error`."
    )
    value: float | None = Field(
        description="Mean over the folds of the lowest hold-out RMSE; if pruned: the lowest so far, on the first fold."
    )
    seconds: float = Field(description="Duration.")
    curve: list[float] = Field(description="Lowest hold-out RMSE of the first fold after each tenth of the epochs.")
    error: str | None = Field(description="Why it failed.")


class SearchOut(BaseModel):
    """A search, which is also a training run with the same number."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": 13,
                    "status": "running",
                    "requested_by": "api",
                    "space": _SPACE_EXAMPLE,
                    "strategy": "tpe",
                    "n_trials": 40,
                    "seed": 0,
                    "n_folds": 3,
                    "pruning": "median",
                    "publish": True,
                    "hyperparameters": {"n_factors": 64, "n_epochs": 25, "learning_rate": 0.032},
                    "loss": LOSS_EXAMPLE,
                    "created_at": "2026-01-31T12:00:00Z",
                    "started_at": "2026-01-31T12:00:00.2Z",
                    "finished_at": None,
                    "is_cancel_requested": False,
                    "attempt": 1,
                    "n_ratings": 100836,
                    "n_done": 12,
                    "best": _EXAMPLE_TRIAL,
                    "best_hyperparameters": {"n_factors": 32, "n_epochs": 25, "learning_rate": 0.031},
                    "best_loss": LOSS_EXAMPLE,
                    "version": None,
                    "error": None,
                }
            ]
        }
    )

    id: int = Field(description="Number of the search, and of its run.")
    status: RunStatus = Field(description="`rejected`: the best trial did not pass the gate and was not published.")
    requested_by: RequestedBy = Field(description="Who requested it: the API or the command line.")
    space: dict[str, Any] = Field(description="The values to try, by name.")
    strategy: Strategy = Field(description="How values are chosen.")
    n_trials: int = Field(description="Total number of trials.")
    seed: int = Field(description="Seed of the random choices.")
    n_folds: int = Field(description="Folds of the cross-validation; 1: one hold-out.")
    pruning: Pruning = Field(description="Which trials end early.")
    publish: bool = Field(description="Whether the best trial is trained on all ratings and published.")
    hyperparameters: dict[str, Any] = Field(description="Values that all trials share unless they try another.")
    loss: LossOut = Field(description="What trials minimize unless they try another loss.")
    created_at: datetime = Field(description="When it was requested.")
    started_at: datetime | None = Field(description="When a trainer last claimed it.")
    finished_at: datetime | None = Field(description="When it ended.")
    is_cancel_requested: bool = Field(description="Whether its cancellation was requested.")
    attempt: int = Field(
        description="How often a trainer claimed it: again after a crash, or after a training run that went first."
    )
    n_ratings: int | None = Field(description="Ratings that trials are trained and evaluated on.")
    n_done: int = Field(description="Trials that have ended.")
    best: TrialOut | None = Field(description="The best complete trial so far.")
    best_hyperparameters: dict[str, Any] | None = Field(description="All hyperparameters of the best trial.")
    best_loss: LossOut | None = Field(description="What the best trial minimized.")
    version: int | None = Field(description="The model version that it published.")
    error: str | None = Field(description="Why it failed, or why the best trial was not published.")

    @classmethod
    def of(cls, row: SearchRun, trials: Sequence[Trial]) -> Self:
        best = best_of(trials)
        chosen = base_of(row).with_values(best.parameters) if best else None
        facts = {
            **row._mapping,
            "loss": LossOut.of(loss_of(row).to_dict()),
            "n_done": len(trials),
            "best": best,
            "best_hyperparameters": chosen.hyperparameters.to_dict() if chosen else None,
            "best_loss": LossOut.of(chosen.loss.to_dict()) if chosen else None,
            "trials": trials,
        }
        return cls(**facts)


class SearchDetail(SearchOut):
    """A search with its trials."""

    trials: list[TrialOut] = Field(description="The trials that have ended, in order.")


class SearchList(BaseModel):
    """A page of searches, newest first."""

    searches: list[SearchOut] = Field(description="The searches of this page.")
    next_cursor: NextCursor
