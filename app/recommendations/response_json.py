"""Answers as JSON, straight from arrays: what the schemas say, without an object for each item."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from pydantic_core import to_json

Json = str
"""Text that is JSON already."""


def items_json(texts: Sequence[Json], **columns: Sequence[Json]) -> Json:
    """A JSON array of items: each is its text (see `CatalogueView.texts`) and one field more for each column."""
    fields = "".join(f',"{name}":%s' for name in columns)
    return f"[{','.join(map(f'%s{fields}}}'.__mod__, zip(texts, *columns.values(), strict=True)))}]"


def numbers_json(numbers: list[float] | list[int]) -> list[Json]:
    """Each number, which must be finite, as JSON: in half the time that Python takes to write one by one."""
    return to_json(numbers)[1:-1].decode("ascii").split(",") if numbers else []


def object_json(items: Json, **fields: object) -> bytes:
    """An answer: these fields, then its items."""
    return b'%b,"items":%b}' % (to_json(fields)[:-1], items.encode())


def etag_of(body: bytes) -> str:
    """A strong validator: equal for equal bodies only."""
    return f'"{blake2b(body, digest_size=12).hexdigest()}"'
