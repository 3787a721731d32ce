"""The model_versions and active_model tables."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables import Base, UtcTime, utc_now


class ModelVersion(Base):
    """A published model: its folder is complete on disk before this row exists."""

    __tablename__ = "model_versions"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012

    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    run_id: Mapped[int | None] = mapped_column(Integer)
    folder: Mapped[str] = mapped_column(String(200), unique=True)  # name inside the versions folder
    digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcTime, default=utc_now)
    trained_through: Mapped[int] = mapped_column(BigInteger)
    manifest: Mapped[dict[str, Any]] = mapped_column(JSON)


class ActiveModel(Base):
    """The one row that says which version is active; no row before the first publish."""

    __tablename__ = "active_model"
    __table_args__ = (CheckConstraint("id = 1", name="single"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(ForeignKey("model_versions.version"))
    activated_at: Mapped[datetime] = mapped_column(UtcTime, default=utc_now)
