"""What the key endpoints take and answer with."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.api_keys.keys import KeyRow, KeyScope, NewKey
from app.api_keys.models import NAME_LENGTH

_EXAMPLE: dict[str, Any] = {
    "id": 3,
    "name": "web shop",
    "prefix": "plt_k3x9m2ab",
    "scopes": ["read", "write"],
    "created_at": "2026-01-31T12:00:00Z",
    "expires_at": "2027-01-31T12:00:00Z",
    "revoked_at": None,
    "last_used_at": "2026-02-01T08:15:00Z",
}


class NewKeyIn(BaseModel):
    """A key to make."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "web shop", "scopes": ["read", "write"]}]}
    )

    name: str = Field(
        min_length=1, max_length=NAME_LENGTH, description="Who uses it; no two keys in use have the same."
    )
    scopes: list[KeyScope] = Field(
        min_length=1,
        max_length=3,
        description="`read`: recommendations and everything that is only looked at. `write`: ratings and items. "
        "`admin`: everything, training, models, the export of all ratings and keys included.",
    )
    expires_at: AwareDatetime | None = Field(None, description="When it stops working; null: never.")


class KeyOut(BaseModel):
    """A key, without the key itself, which is stored nowhere."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: int = Field(description="Number of the key; never given out twice.")
    name: str = Field(description="Who uses it.")
    prefix: str = Field(description="How the key begins, by which it is told in logs.")
    scopes: list[KeyScope] = Field(description="What it may do.")
    created_at: datetime = Field(description="When it was made.")
    expires_at: datetime | None = Field(description="When it stops working, or did; null: never.")
    revoked_at: datetime | None = Field(description="When it was revoked; null: it is in use.")
    last_used_at: datetime | None = Field(description="When it was last used, within a minute or so.")

    @classmethod
    def of(cls, row: KeyRow) -> Self:
        return cls.model_validate(row, from_attributes=True)


class NewKeyOut(KeyOut):
    """A key that was just made, and the only answer that ever holds the key itself."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{**_EXAMPLE, "key": "plt_k3x9m2ab_NoSuchKeyWasEverMadeByAnyoneItIsAnExample00"}]
        }
    )

    key: str = Field(description="The key: send it as `Authorization: Bearer ...`, and keep it: nobody can look it up.")

    @classmethod
    def of_new(cls, made: NewKey) -> Self:
        return cls(**made.row._mapping, key=made.token)


class KeyList(BaseModel):
    """A page of keys, newest first."""

    keys: list[KeyOut] = Field(description="The keys of this page, revoked ones included.")
    next_cursor: str | None = Field(
        description="Pass it as `cursor` for the next page; null on the last.", examples=[None]
    )
