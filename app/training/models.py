"""The training_runs and training_epochs tables."""

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import JSON, BigInteger, Boolean, Float, ForeignKey, Index, Integer, String, Text, false, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables import Base, UtcTime, utc_now

RunStatus = Literal["queued", "running", "succeeded", "failed", "cancelled", "rejected"]
STATUSES: tuple[RunStatus, ...] = ("queued", "running", "succeeded", "failed", "cancelled", "rejected")
FINISHED: tuple[RunStatus, ...] = STATUSES[2:]
RequestedBy = Literal["api", "policy", "cli"]
RunKind = Literal["train", "search"]
KINDS: tuple[RunKind, ...] = ("train", "search")
Phase = Literal["fit", "sample", "final", "resample"]
PHASES: tuple[Phase, ...] = ("fit", "sample", "final", "resample")
"""In chronological order; the epochs of each are counted from 1. A sweep of posterior averaging counts as an epoch."""


def _unique_where(name: str, column: str, condition: str) -> Index:
    return Index(name, column, unique=True, sqlite_where=text(condition), postgresql_where=text(condition))


class TrainingRun(Base):
    """A training run and its outcome. Unique indexes allow one running run, and one that the policy has queued.

    A search is a run as well: it waits in the same queue for the same trainer.
    """

    __tablename__ = "training_runs"
    __table_args__ = (
        _unique_where("uq_training_runs_one_running", "status", "status = 'running'"),
        _unique_where(
            "uq_training_runs_one_queued_by_policy", "requested_by", "status = 'queued' AND requested_by = 'policy'"
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(8), default="train", server_default="train")
    status: Mapped[str] = mapped_column(String(16), index=True)
    requested_by: Mapped[str] = mapped_column(String(16))
    hyperparameters: Mapped[dict[str, Any]] = mapped_column(JSON)
    loss: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # null: squared loss
    created_at: Mapped[datetime] = mapped_column(UtcTime, default=utc_now)
    started_at: Mapped[datetime | None] = mapped_column(UtcTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcTime)
    is_cancel_requested: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    worker: Mapped[str | None] = mapped_column(String(200))  # holder of the lease
    lease_expires_at: Mapped[datetime | None] = mapped_column(UtcTime)
    attempt: Mapped[int] = mapped_column(Integer, default=0)  # increased by every claim: the fencing token
    n_crashes: Mapped[int] = mapped_column(Integer, default=0, server_default="0")  # of its trainers
    n_ratings: Mapped[int | None] = mapped_column(BigInteger)
    trained_through: Mapped[int | None] = mapped_column(BigInteger)
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    version: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str | None] = mapped_column(Text)


class TrainingEpoch(Base):
    """One pass over the ratings: an epoch of a fit, or a sweep of posterior averaging.

    Phases `fit` and `sample` leave out the hold-out; `final` and `resample` learn all ratings.
    """

    __tablename__ = "training_epochs"

    run_id: Mapped[int] = mapped_column(ForeignKey("training_runs.id", ondelete="CASCADE"), primary_key=True)
    phase: Mapped[str] = mapped_column(String(8), primary_key=True)
    epoch: Mapped[int] = mapped_column(Integer, primary_key=True)
    n_epochs: Mapped[int] = mapped_column(Integer)
    learning_rate: Mapped[float] = mapped_column(Float(53))
    train_rmse: Mapped[float] = mapped_column(Float(53))
    holdout_rmse: Mapped[float | None] = mapped_column(Float(53))
    ratings_per_second: Mapped[float] = mapped_column(Float(53))
    finished_at: Mapped[datetime] = mapped_column(UtcTime, default=utc_now)
