"""Requests and responses of the key endpoints."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.api_keys.keys import KeyScope
from app.api_keys.models import NAME_LENGTH
from app.http.pages import NextCursor

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
_NEW_EXAMPLE = {**_EXAMPLE, "key": "plt_k3x9m2ab_NoSuchKeyWasEverMadeByAnyoneItIsAnExample00"}


class NewKeyIn(BaseModel):
    """A key to create."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "web shop", "scopes": ["read", "write"]}]}
    )

    name: str = Field(
        min_length=1,
        max_length=NAME_LENGTH,
        description="Name of the client that will use it; unique among active keys.",
    )
    scopes: list[KeyScope] = Field(
        min_length=1,
        max_length=3,
        description="`read`: recommendations and all other read access. `write`: ratings and items. "
        "`admin`: everything, including training, models, keys and the export of all ratings.",
    )
    expires_at: AwareDatetime | None = Field(None, description="Expiry time; null: never.")


class KeyOut(BaseModel):
    """A key without its token, which is not stored."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_EXAMPLE]})

    id: int = Field(description="Number of the key; never reused.")
    name: str = Field(description="Name of the client that uses it.")
    prefix: str = Field(description="First characters of the key, which identify it in logs.")
    scopes: list[KeyScope] = Field(description="Scopes of the key.")
    created_at: datetime = Field(description="Creation time.")
    expires_at: datetime | None = Field(description="Expiry time; null: never.")
    revoked_at: datetime | None = Field(description="Time of revocation; null: active.")
    last_used_at: datetime | None = Field(description="Time of the last use, accurate to about a minute.")


class NewKeyOut(KeyOut):
    """A new key: the only response that contains the key itself."""

    model_config = ConfigDict(json_schema_extra={"examples": [_NEW_EXAMPLE]})

    key: str = Field(
        description="The key itself, to be sent as `Authorization: Bearer ...`. Store it: it cannot be looked up later."
    )


class KeyList(BaseModel):
    """A page of keys, newest first."""

    keys: list[KeyOut] = Field(description="The keys of this page, including revoked ones.")
    next_cursor: NextCursor
