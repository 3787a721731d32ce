"""External ids: the names that applications give their users and items."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, Field

from app.db.tables import ID_LENGTH


@lru_cache(maxsize=4096)
def complaint_about_id(external_id: str) -> str | None:
    """Why this is not a valid id of a user or an item, or None if it is. Cached, because the same ids come again."""
    if not 1 <= len(external_id) <= ID_LENGTH:
        return f"must have 1 to {ID_LENGTH} characters"
    if "/" in external_id:
        return "must not contain '/'"
    if not external_id.isprintable():
        return "must consist of printable characters"
    if external_id in {".", ".."}:
        return "must not be '.' or '..', which are not possible in URL paths"
    return None


def _checked(external_id: str) -> str:
    if complaint := complaint_about_id(external_id):
        raise ValueError(complaint)
    return external_id


_RULE = AfterValidator(_checked)
_SHAPE = {"min_length": 1, "max_length": ID_LENGTH}
_PATTERN = {"pattern": r"^[^/]+$"}

ExternalId = Annotated[str, Field(strict=True, json_schema_extra=_PATTERN, **_SHAPE), _RULE]
UserIdPath = Annotated[str, Path(description="The application's id of the user.", examples=["ann"], **_SHAPE), _RULE]
ItemIdPath = Annotated[str, Path(description="The application's id of the item.", examples=["dune"], **_SHAPE), _RULE]
