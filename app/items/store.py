"""Statements on the items table. Functions take a connection and never commit."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, literal, select, update

from app.db.connections import is_sqlite
from app.db.ids import id_column, keys_of_ids
from app.db.paging import cursor_after, key_before
from app.db.revisions import advance, revision
from app.db.tables import utc_now
from app.errors import NotFound
from app.imports.line_import import BatchCounts
from app.items.models import DeletedItem, Item

_FIELDS = (Item.item_id, Item.title, Item.categories, Item.attributes, Item.hidden, Item.revision)
_ROWS_AT_ONCE = 10_000
_EMPTY: dict[str, Any] = {"title": None, "categories": [], "attributes": {}, "hidden": False}


class UnknownItem(NotFound):
    def __init__(self, item_id: str) -> None:
        super().__init__(f"item {item_id!r} does not exist")
        self.item_id = item_id


class CatalogItem(NamedTuple):
    """The fields that decide whether an item may be listed."""

    item_key: int
    categories: list[str]
    hidden: bool


@dataclass(frozen=True, slots=True)
class CatalogChanges:
    """Items changed and keys of items deleted after one revision and at least up to another; deletions come last."""

    changed: Iterator[CatalogItem]
    deleted: list[int]
    revision: int


def get(connection: Connection, item_id: str) -> Row[Any]:
    """One item with all its fields; raises UnknownItem."""
    row = connection.execute(select(*_FIELDS).where(Item.item_id == item_id)).one_or_none()
    if row is None:
        raise UnknownItem(item_id)
    return row


def exists(connection: Connection, item_id: str) -> bool:
    return connection.execute(select(Item.item_key).where(Item.item_id == item_id)).first() is not None


def key_of(connection: Connection, item_id: str) -> int:
    """The key of an item; raises UnknownItem."""
    key = connection.execute(select(Item.item_key).where(Item.item_id == item_id)).scalar_one_or_none()
    if key is None:
        raise UnknownItem(item_id)
    return key


def categories_by_item(connection: Connection) -> list[tuple[int, str, list[str]]]:
    """Key, outside id and categories of all items that have any, by key."""
    has_any = func.json_array_length(Item.categories) > 0
    rows = connection.execute(
        select(Item.item_key, Item.item_id, Item.categories).where(has_any).order_by(Item.item_key)
    )
    return [(row.item_key, row.item_id, row.categories) for row in rows]


def ensure_items(connection: Connection, item_ids: Collection[str]) -> dict[str, int]:
    """The key of each id; a new id gets an item without metadata."""
    keys = keys_of_ids(connection, "item", item_ids)
    if len(keys) == len(set(item_ids)):
        return keys
    before = advance(connection, "items", 0)  # locks, so that no other writer adds items before the insert
    missing = [item_id for item_id in dict.fromkeys(item_ids) if item_id not in keys]
    keys |= keys_of_ids(connection, "item", missing)
    missing = [item_id for item_id in missing if item_id not in keys]
    if missing:
        keys |= _insert_bare(connection, missing, before)
        _count(connection, changed=len(missing), created=len(missing))
    return keys


def _insert_bare(connection: Connection, item_ids: list[str], before: int) -> dict[str, int]:
    ids = id_column(connection, item_ids).subquery("ids")
    rows = select(ids.c[0], literal(before) + func.row_number().over())
    statement = insert(Item).from_select(["item_id", "revision"], rows).returning(Item.item_id, Item.item_key)
    return dict(connection.execute(statement).all())


def put(connection: Connection, item_id: str, fields: Mapping[str, Any]) -> tuple[bool, Row[Any]]:
    """Set fields of an item and keep the others; returns whether the item is new, and the item."""
    counts = write_many(connection, {item_id: fields})
    return bool(counts.created), get(connection, item_id)


def patch(connection: Connection, item_id: str, fields: Mapping[str, Any]) -> Row[Any]:
    """Set fields of an existing item and keep the others; raises UnknownItem."""
    advance(connection, "items", 0)
    get(connection, item_id)
    write_many(connection, {item_id: fields})
    return get(connection, item_id)


def write_many(connection: Connection, changes: Mapping[str, Mapping[str, Any]]) -> BatchCounts:
    """Set fields of each item and keep the others; a new item begins empty."""
    newest = before = advance(connection, "items", 0)
    query = select(Item.item_key, *_FIELDS).where(Item.item_id.in_(id_column(connection, changes)))
    stored = {row.item_id: row for row in connection.execute(query)}
    new, changed = [], []
    for item_id, fields in changes.items():
        row = stored.get(item_id)
        if row is None:
            newest += 1
            new.append({"item_id": item_id, "revision": newest} | _columns(_EMPTY | dict(fields)))
        elif any(not _is_same(getattr(row, name), value) for name, value in fields.items()):
            newest += 1
            merged = {name: getattr(row, name) for name in _EMPTY} | dict(fields)
            changed.append(
                {"changed_key": row.item_key, "revision": newest, "updated_at": utc_now()} | _columns(merged)
            )
    if new:
        connection.execute(insert(Item), new)
    if changed:
        connection.execute(_update_statement(), changed)
    revision_now = _count(connection, changed=newest - before, created=len(new))
    return BatchCounts(len(new), len(changed), len(changes) - len(new) - len(changed), revision_now)


def _update_statement() -> Any:
    names = ("title", "title_folded", "categories", "attributes", "hidden", "revision", "updated_at")
    return (
        update(Item).where(Item.item_key == bindparam("changed_key")).values({name: bindparam(name) for name in names})
    )


def _columns(fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {"title_folded": folded(fields["title"] or "")}


def _is_same(stored: Any, value: Any) -> bool:
    """As JSON: in Python 1, 1.0 and True are equal."""
    return json.dumps(stored, sort_keys=True) == json.dumps(value, sort_keys=True)


def _count(connection: Connection, *, changed: int, created: int) -> int:
    if created:
        advance(connection, "n_items", created)
    return advance(connection, "items", changed) if changed else revision(connection, "items")


def remove(connection: Connection, item_key: int) -> int:
    """Delete an item, which must exist, but not its ratings: see `ratings.erasure`. Returns the items revision."""
    newest = advance(connection, "items", 1)
    connection.execute(delete(Item).where(Item.item_key == item_key))
    connection.execute(insert(DeletedItem).values(item_key=item_key, revision=newest))
    advance(connection, "n_items", -1)
    return newest


def page(
    connection: Connection, limit: int, cursor: str | None, title: str | None, category: str | None
) -> tuple[Sequence[Row[Any]], str | None]:
    """Items in the order of their creation, and the cursor of the next page. Searches read the whole table."""
    query = select(Item.item_key, *_FIELDS).where(Item.item_key > key_before(cursor))
    if title:
        query = query.where(Item.title_folded.contains(folded(title), autoescape=True))
    if category is not None:
        query = query.where(_has_category(connection, category))
    rows = connection.execute(query.order_by(Item.item_key).limit(limit + 1)).all()
    has_more = len(rows) > limit
    return rows[:limit], cursor_after(rows[limit - 1].item_key) if has_more else None


def _has_category(connection: Connection, category: str) -> Any:
    if is_sqlite(connection):
        each = func.json_each(Item.categories).table_valued("value", name="each_category").c.value
    else:
        each = func.json_array_elements_text(Item.categories).column_valued("each_category")
    return literal(category).in_(select(each))


def folded(text: str) -> str:
    """Text normalized so that case and the encoding of accents make no difference.

    Done here because databases disagree on case outside ASCII.
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def catalog_changes(connection: Connection, since_revision: int) -> CatalogChanges:
    """What changed after a revision, read lazily.

    May already contain a change that is committed during the read; the next call then returns it again.
    """
    newest = revision(connection, "items")
    deleted = connection.execute(select(DeletedItem.item_key).where(DeletedItem.revision > since_revision)).scalars()
    query = select(Item.item_key, Item.categories, Item.hidden).where(Item.revision > since_revision)
    rows = connection.execute(query.execution_options(yield_per=_ROWS_AT_ONCE))
    return CatalogChanges(map(CatalogItem._make, rows), list(deleted), newest)


def describe(connection: Connection, item_keys: Sequence[int]) -> dict[int, tuple[str | None, list[str]]]:
    """Title and categories of those items that are still there."""
    described: dict[int, tuple[str | None, list[str]]] = {}
    for first in range(0, len(item_keys), _ROWS_AT_ONCE):  # databases limit the number of parameters
        batch = item_keys[first : first + _ROWS_AT_ONCE]
        query = select(Item.item_key, Item.title, Item.categories).where(Item.item_key.in_(batch))
        described.update((key, (title, categories)) for key, title, categories in connection.execute(query))
    return described
