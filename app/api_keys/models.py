"""The api_keys table."""

from datetime import datetime

from sqlalchemy import JSON, Index, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables import Base, UtcTime

NAME_LENGTH = 64


class ApiKey(Base):
    """The key of a client. Rows are never deleted: once a key existed, requests need one."""

    __tablename__ = "api_keys"
    __table_args__ = (
        # A name is free again once its key is revoked.
        Index(
            "uq_api_keys_name",
            "name",
            unique=True,
            sqlite_where=text("revoked_at IS NULL"),
            postgresql_where=text("revoked_at IS NULL"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    prefix: Mapped[str] = mapped_column(String(16), unique=True)
    """The public part of the key, by which it is looked up and named in logs."""
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the whole key, which itself is not stored."""
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcTime)
    """Accurate to about a minute."""
