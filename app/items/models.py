"""The items table."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Integer, String, Text, false
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables import ID_LENGTH, Base, UtcTime, utc_now

TITLE_LENGTH = 1000


class Item(Base):
    """Something that can be rated; created by its first rating or by a PUT, whichever comes first.

    An `item_key` is never used again, so a model version may refer to it after a deletion.
    """

    __tablename__ = "items"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012

    item_key: Mapped[int] = mapped_column(Integer, primary_key=True)
    item_id: Mapped[str] = mapped_column(String(ID_LENGTH), unique=True)
    title: Mapped[str | None] = mapped_column(String(TITLE_LENGTH))
    title_folded: Mapped[str] = mapped_column(Text, default="")  # searched instead of the title; see store.folded
    categories: Mapped[list[str]] = mapped_column(JSON, default=list)
    attributes: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    hidden: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    updated_at: Mapped[datetime] = mapped_column(UtcTime, default=utc_now)
    revision: Mapped[int] = mapped_column(BigInteger, index=True)


class DeletedItem(Base):
    """The key of a deleted item, so that caches can drop it."""

    __tablename__ = "deleted_items"

    item_key: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(BigInteger, index=True)
