"""The searches and search_trials tables."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Float, ForeignKey, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables import Base, UtcTime, utc_now


class SearchRow(Base):
    """What a run of kind `search` tries and how; status, lease and outcome are columns of the run."""

    __tablename__ = "searches"

    run_id: Mapped[int] = mapped_column(ForeignKey("training_runs.id", ondelete="CASCADE"), primary_key=True)
    space: Mapped[dict[str, Any]] = mapped_column(JSON)
    strategy: Mapped[str] = mapped_column(String(8))
    n_trials: Mapped[int] = mapped_column(Integer)
    seed: Mapped[int] = mapped_column(BigInteger)
    n_folds: Mapped[int] = mapped_column(Integer)
    pruning: Mapped[str] = mapped_column(String(8))
    publish: Mapped[bool] = mapped_column(Boolean)
    defaults: Mapped[dict[str, Any]] = mapped_column(JSON)
    """The settings when it was requested: hyperparameters, loss and rating range."""


class SearchTrial(Base):
    """A trial that has ended; one whose trainer died during it has no row and is repeated."""

    __tablename__ = "search_trials"

    search_id: Mapped[int] = mapped_column(ForeignKey("searches.run_id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON)
    status: Mapped[str] = mapped_column(String(8))
    value: Mapped[float | None] = mapped_column(Float(53))
    seconds: Mapped[float] = mapped_column(Float(53))
    curve: Mapped[list[float]] = mapped_column(JSON)
    error: Mapped[str | None] = mapped_column(Text)
    trained_through: Mapped[int] = mapped_column(BigInteger)
    finished_at: Mapped[datetime] = mapped_column(UtcTime, default=utc_now)
