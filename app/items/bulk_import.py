"""Import of item metadata: `movieId,title,genres`, `item_id,title,categories`, `movies.dat`, NDJSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from pydantic import ValidationError

from app.db.engine import Database
from app.db.revisions import revision
from app.errors import field_path
from app.http.ids import complaint_about_id
from app.imports.file_layout import BadLine, Field, FileFormat, Layout, LayoutRules, Records, Table, parse_object
from app.imports.line_import import BatchCounts, LineImport, OnProgress, named_columns, run_import
from app.imports.line_reader import Encoding
from app.imports.schemas import ImportReport
from app.items import store
from app.items.schemas import ItemChanges
from app.settings import Settings

FIELDS = (
    Field.of("item_id", "movieId", "item", "movie", "id", "productId", "bookId", "isbn", is_required=True),
    Field.of("title", "name", is_required=True),
    Field.of("categories", "genres", "category", "genre", "tags"),
    Field.of("attributes"),
    Field.of("hidden"),
)
_CATEGORY_SEPARATOR = "|"
_NO_CATEGORIES = {"", "(no genres listed)"}

ItemRow = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ItemImportOptions:
    """How to read the file; whatever is unset is detected."""

    file_format: FileFormat = "auto"
    encoding: Encoding = "utf-8"
    item_column: str | None = None
    title_column: str | None = None
    categories_column: str | None = None


def begin_import(
    database: Database,
    settings: Settings,
    options: ItemImportOptions | None = None,
    on_progress: OnProgress | None = None,
) -> LineImport[ItemRow]:
    """An import that takes the file block by block; see `LineImport`."""
    options = options or ItemImportOptions()
    columns = named_columns(
        item_id=options.item_column, title=options.title_column, categories=options.categories_column
    )

    def save(rows: list[ItemRow]) -> BatchCounts:
        with database.write() as connection:
            return store.write_many(connection, dict(rows))

    def newest_revision() -> int:
        with database.read() as connection:
            return revision(connection, "items")

    return LineImport(
        LayoutRules(FIELDS, _is_record, options.file_format, columns),
        _parser_of,
        save,
        newest_revision,
        settings.imports,
        options.encoding,
        on_progress,
    )


def import_items(
    database: Database,
    settings: Settings,
    source: BinaryIO | Iterable[bytes],
    options: ItemImportOptions | None = None,
    on_progress: OnProgress | None = None,
) -> ImportReport:
    """Set the fields that the file has and keep the others; raises BadInput if its first line is not understood."""
    return run_import(begin_import(database, settings, options, on_progress), source)


def _is_record(columns: Sequence[str]) -> bool:
    return 2 <= len(columns) <= 3 and complaint_about_id(columns[0]) is None and not columns[0].isspace()


def _parser_of(layout: Layout) -> Callable[[str], ItemRow]:
    if isinstance(layout, Records):
        return lambda text: _from_object(layout, text)
    return lambda text: _from_columns(layout, text)


def _from_object(layout: Records, text: str) -> ItemRow:
    record = parse_object(text)
    fields = {name: record[key] for name, key in layout.keys.items() if key in record}
    item_id = fields.pop("item_id", None)
    if isinstance(item_id, int) and not isinstance(item_id, bool):
        item_id = str(item_id)
    if not isinstance(item_id, str):
        raise BadLine(f"{layout.keys['item_id']}: must be text")
    if isinstance(fields.get("categories"), str):
        fields["categories"] = _categories(fields["categories"])
    return _checked(item_id, fields)


def _from_columns(layout: Table, text: str) -> ItemRow:
    columns = layout.split(text)
    texts = {name: columns[index] for name, index in layout.positions.items() if name not in {"attributes", "hidden"}}
    fields: dict[str, Any] = {"title": texts["title"] or None}
    if "categories" in texts:
        fields["categories"] = _categories(texts["categories"])
    return _checked(texts["item_id"], fields)


def _categories(text: str) -> list[str]:
    if text in _NO_CATEGORIES:
        return []
    return [name for part in text.split(_CATEGORY_SEPARATOR) if (name := part.strip())]


def _checked(item_id: str, fields: dict[str, Any]) -> ItemRow:
    if complaint := complaint_about_id(item_id):
        raise BadLine(f"item_id: {complaint}")
    try:
        accepted = ItemChanges.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadLine(f"{field_path(('line', *first['loc']))}: {first['msg']}") from error
    return item_id, accepted.model_dump(exclude_unset=True)
