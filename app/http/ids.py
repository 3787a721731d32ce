"""Outside ids: the text by which applications name their users and items."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, Field

from app.db.tables import ID_LENGTH


def complaint_about_id(outside_id: str) -> str | None:
    """Why this cannot name a user or an item, or None when it can."""
    if not 1 <= len(outside_id) <= ID_LENGTH:
        return f"must have 1 to {ID_LENGTH} characters"
    if "/" in outside_id:
        return "must not contain '/'"
    if not outside_id.isprintable():
        return "must consist of printable characters"
    if outside_id in {".", ".."}:
        return "must not be '.' or '..', which paths cannot carry"
    return None


def _checked(outside_id: str) -> str:
    if complaint := complaint_about_id(outside_id):
        raise ValueError(complaint)
    return outside_id


_RULE = AfterValidator(_checked)
_SHAPE = {"min_length": 1, "max_length": ID_LENGTH}
_PATTERN = {"pattern": r"^[^/]+$"}

OutsideId = Annotated[str, Field(strict=True, json_schema_extra=_PATTERN, **_SHAPE), _RULE]
UserIdPath = Annotated[str, Path(description="The application's id of the user.", examples=["ann"], **_SHAPE), _RULE]
ItemIdPath = Annotated[str, Path(description="The application's id of the item.", examples=["dune"], **_SHAPE), _RULE]
