"""Endpoints of items."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.db.engine import DatabaseDep
from app.http.ids import ItemIdPath
from app.http.openapi import declared
from app.imports.schemas import BatchCountsOut
from app.items import store
from app.items.models import TITLE_LENGTH
from app.items.schemas import CATEGORY_LENGTH, ItemBody, ItemChanges, ItemOut, ItemPage, NewItems, SearchedText

router = APIRouter(prefix="/items", tags=["items"])

_UNKNOWN = declared(HTTPStatus.NOT_FOUND)
_INVALID = declared(HTTPStatus.UNPROCESSABLE_ENTITY)


@router.get("", responses=_INVALID)
def list_items(
    database: DatabaseDep,
    title: Annotated[
        SearchedText | None,
        Query(max_length=TITLE_LENGTH, description="Part of the title, case-insensitive.", examples=["dune"]),
    ] = None,
    category: Annotated[
        SearchedText | None,
        Query(max_length=CATEGORY_LENGTH, description="Only items of this category.", examples=["Sci-Fi"]),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of items per page.")] = 100,
    cursor: Annotated[str | None, Query(max_length=100, description="`next_cursor` of the previous page.")] = None,
) -> ItemPage:
    """Items page by page, including hidden ones, optionally filtered by title or category."""
    with database.read() as connection:
        rows, next_cursor = store.page(connection, limit, cursor, title, category)
    return ItemPage(items=[ItemOut.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.post("/batch", responses=_INVALID)
def put_items(body: NewItems, database: DatabaseDep) -> BatchCountsOut:
    """Create or replace up to 10,000 items in one transaction: all of them or none."""
    changes = {item.item_id: item.model_dump(exclude={"item_id"}) for item in body.items}
    with database.write() as connection:
        counts = store.write_many(connection, changes)
    return BatchCountsOut.model_validate(counts)


@router.put(
    "/{item_id}",
    responses={HTTPStatus.CREATED.value: {"model": ItemOut, "description": "The item is new."}, **_INVALID},
)
def put_item(item_id: ItemIdPath, body: ItemBody, database: DatabaseDep, response: Response) -> ItemOut:
    """Create or replace an item; fields that are left out become empty."""
    with database.write() as connection:
        is_new, row = store.put(connection, item_id, body.model_dump())
    response.status_code = HTTPStatus.CREATED if is_new else HTTPStatus.OK
    return ItemOut.model_validate(row)


@router.patch("/{item_id}", responses={**_UNKNOWN, **_INVALID})
def patch_item(item_id: ItemIdPath, body: ItemChanges, database: DatabaseDep) -> ItemOut:
    """Change only the fields in the body."""
    with database.write() as connection:
        row = store.patch(connection, item_id, body.model_dump(exclude_unset=True))
    return ItemOut.model_validate(row)


@router.get("/{item_id}", responses={**_UNKNOWN, **_INVALID})
def get_item(item_id: ItemIdPath, database: DatabaseDep) -> ItemOut:
    """One item. Rating an item creates it, so its fields may be empty."""
    with database.read() as connection:
        row = store.get(connection, item_id)
    return ItemOut.model_validate(row)
