"""Request and response bodies of the item endpoints."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.http.ids import ExternalId
from app.items.models import TITLE_LENGTH

MAX_BATCH = 10_000
MAX_CATEGORIES = 100
CATEGORY_LENGTH = 200
ATTRIBUTES_BYTES = 64 << 10
ATTRIBUTES_DEPTH = 32
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def complaint_about_text(text: str) -> str | None:
    """Why this text cannot be a title or a category, or None when it can."""
    return "must not hold control characters" if _CONTROL.search(text) else None


def complaint_about_attributes(attributes: dict[str, Any]) -> str | None:
    """Why these attributes cannot be stored, or None when they can."""
    if _is_deeper(attributes, ATTRIBUTES_DEPTH):  # if it could be stored but not returned, every list would fail
        return f"must not be nested more than {ATTRIBUTES_DEPTH} levels deep"
    try:
        encoded = json.dumps(attributes, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "must not hold broken characters (lone surrogates)"
    except (TypeError, ValueError, RecursionError):
        return "must be a JSON object (NaN and infinity are not JSON)"
    return f"must fit into {ATTRIBUTES_BYTES} bytes of JSON" if len(encoded) > ATTRIBUTES_BYTES else None


def _is_deeper(outermost: dict[str, Any], depth: int) -> bool:
    """Level by level: a function that calls itself would fail on what it looks for."""
    level: list[Any] = [outermost]
    for _ in range(depth):
        inside = (outer.values() if isinstance(outer, dict) else outer for outer in level)
        level = [inner for inners in inside for inner in inners if isinstance(inner, dict | list)]
    return bool(level)


def _checked_text(text: str) -> str:
    if complaint := complaint_about_text(text):
        raise ValueError(complaint)
    return text


def _checked_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    if complaint := complaint_about_attributes(attributes):
        raise ValueError(complaint)
    return attributes


SearchedText = Annotated[str, AfterValidator(_checked_text)]
Title = Annotated[
    str,
    Field(max_length=TITLE_LENGTH, description="Title of the item.", examples=["Dune (2021)"]),
    AfterValidator(_checked_text),
]
_Category = Annotated[str, Field(min_length=1, max_length=CATEGORY_LENGTH), AfterValidator(_checked_text)]
Categories = Annotated[
    list[_Category],
    Field(
        max_length=MAX_CATEGORIES,
        description="Categories that lists can be filtered by; their order is preserved.",
        examples=[["Adventure", "Sci-Fi"]],
    ),
]
Attributes = Annotated[
    dict[str, Any],
    Field(
        description=f"Anything the application wants to store, at most {ATTRIBUTES_DEPTH} levels deep.",
        examples=[{"year": 2021}],
    ),
    AfterValidator(_checked_attributes),
]
Hidden = Annotated[bool, Field(description="A hidden item is never recommended; its ratings still count.")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ItemBody(_Body):
    """All fields of an item; those left out become empty."""

    title: Title | None = None
    categories: Categories = []
    attributes: Attributes = {}
    hidden: Hidden = False


class ItemChanges(_Body):
    """Only the fields in the body change; `title: null` removes the title."""

    title: Title | None = None
    categories: Categories = []
    attributes: Attributes = {}
    hidden: Hidden = False


class NewItem(ItemBody):
    """One item of a batch."""

    item_id: ExternalId = Field(description="The application's id of the item.", examples=["dune"])


class NewItems(_Body):
    """Items to create or replace; if an id occurs several times, the last one wins."""

    items: list[NewItem] = Field(max_length=MAX_BATCH)


class ItemOut(BaseModel):
    """An item as it is stored."""

    model_config = ConfigDict(from_attributes=True)

    item_id: str = Field(examples=["dune"])
    title: str | None = Field(examples=["Dune (2021)"])
    categories: list[str] = Field(examples=[["Adventure", "Sci-Fi"]])
    attributes: dict[str, Any] = Field(examples=[{"year": 2021}])
    hidden: bool = Field(examples=[False])
    revision: int = Field(description="The items revision of its last change.", examples=[42])


class ItemPage(BaseModel):
    """A page of items, and the cursor of the next one."""

    items: list[ItemOut]
    next_cursor: str | None = Field(
        description="Pass it as `cursor` to get the next page; null on the last page.", examples=[None]
    )
