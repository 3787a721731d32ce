"""Streaming import of ratings: CSV, tabs, `::` and NDJSON in, committed batches and a report out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from app.db.engine import Database
from app.db.revisions import revision
from app.http.ids import complaint_about_id
from app.imports.file_layout import BadLine, Field, FileFormat, Layout, LayoutRules, Records, parse_object
from app.imports.line_import import BatchCounts, LineImport, OnProgress, named_columns, run_import
from app.imports.line_import import ImportProgress as ImportProgress
from app.imports.line_reader import Encoding
from app.imports.schemas import ImportReport as ImportReport
from app.metrics.instruments import count_ratings
from app.ratings.checks import complaint_about_time, latest_us, time_of_text
from app.ratings.models import NewRating
from app.ratings.store import save_many
from app.settings import RatingScale, Settings

FIELDS = (
    Field.of("user_id", "user", "uid", "reviewerId", "customerId", is_required=True),
    Field.of("item_id", "item", "iid", "movieId", "movie", "productId", "bookId", "isbn", "asin", is_required=True),
    Field.of("value", "rating", "score", "stars", "overall", "bookRating", is_required=True),
    Field.of("rated_at", "timestamp", "time", "date", "unixReviewTime"),
)
_KNOWN_TEXTS = 100_000  # how many checked ids and numbers are remembered


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to read the file; whatever is unset is detected."""

    file_format: FileFormat = "auto"
    encoding: Encoding = "utf-8"
    user_column: str | None = None
    item_column: str | None = None
    value_column: str | None = None
    rated_at_column: str | None = None


def begin_import(
    database: Database,
    settings: Settings,
    options: ImportOptions | None = None,
    on_progress: OnProgress | None = None,
) -> LineImport[NewRating]:
    """An import that takes the file block by block; see `LineImport`."""
    options = options or ImportOptions()
    columns = named_columns(
        user_id=options.user_column,
        item_id=options.item_column,
        value=options.value_column,
        rated_at=options.rated_at_column,
    )

    def save(batch: list[NewRating]) -> BatchCounts:
        with database.write() as connection:
            counts = save_many(connection, batch)
        count_ratings(created=counts.created, updated=counts.updated, unchanged=counts.unchanged)
        return counts

    def newest_revision() -> int:
        with database.read() as connection:
            return revision(connection, "ratings")

    return LineImport(
        LayoutRules(FIELDS, _is_record, options.file_format, columns),
        lambda layout: RatingParser(layout, settings.rating).parse,
        save,
        newest_revision,
        settings.imports,
        options.encoding,
        on_progress,
    )


def import_ratings(
    database: Database,
    settings: Settings,
    source: BinaryIO | Iterable[bytes],
    options: ImportOptions | None = None,
    on_progress: OnProgress | None = None,
) -> ImportReport:
    """Read a file, or any iterable of bytes, to its end; raises BadInput if its first line is not understood.

    A second import of a file changes nothing, unless the file rates a pair differently in different batches: the
    later line wins, and a second import goes through the same changes again and counts them as updates.
    """
    return run_import(begin_import(database, settings, options, on_progress), source)


def _is_record(columns: Sequence[str]) -> bool:
    """User, item, value and perhaps time, without a header."""
    if not 3 <= len(columns) <= 4:
        return False
    try:
        float(columns[2])
    except ValueError:
        return False
    return True


class RatingParser:
    """Lines of one layout to ratings; raises BadLine naming the column at fault."""

    def __init__(self, layout: Layout, scale: RatingScale) -> None:
        self._scale = scale
        self._latest_us = latest_us()
        self._good_ids: set[str] = set()
        self._good_values: dict[str, float] = {}
        self.parse: Callable[[str], NewRating]
        if isinstance(layout, Records):
            self._keys = layout.keys
            self.parse = self._from_object
        else:
            self._table = layout
            self._places = [layout.positions[name] for name in ("user_id", "item_id", "value")]
            self._time_place = layout.positions.get("rated_at")
            self.parse = self._from_columns

    def _from_columns(self, text: str) -> NewRating:
        columns = self._table.split(text)
        user, item, value = self._places
        user_id, item_id, value_text = columns[user], columns[item], columns[value]
        if user_id not in self._good_ids:
            self._check_id("user_id", user_id)
        if item_id not in self._good_ids:
            self._check_id("item_id", item_id)
        rating = self._good_values.get(value_text)
        if rating is None:
            rating = self._value_of_text(value_text)
        if self._time_place is None or not (time_text := columns[self._time_place]):
            return NewRating(user_id, item_id, rating)
        return NewRating(user_id, item_id, rating, self._time(time_text))

    def _from_object(self, text: str) -> NewRating:
        record = parse_object(text)
        keys = self._keys
        user_id = _id_of(record, keys, "user_id")
        item_id = _id_of(record, keys, "item_id")
        self._check_id("user_id", user_id)
        self._check_id("item_id", item_id)
        value = record.get(keys["value"])
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadLine(f"value: {'must be a number' if keys['value'] in record else 'is missing'}")
        time = record.get(keys["rated_at"])
        rating = self._value(value)
        return NewRating(user_id, item_id, rating, None if time is None else self._time(time))

    def _check_id(self, field: str, outside_id: str) -> None:
        if complaint := complaint_about_id(outside_id):
            raise BadLine(f"{field}: {complaint}")
        if len(self._good_ids) >= _KNOWN_TEXTS:
            self._good_ids.clear()
        self._good_ids.add(outside_id)

    def _value_of_text(self, text: str) -> float:
        value = self._value(_number(text, "value"))
        if len(self._good_values) < _KNOWN_TEXTS:
            self._good_values[text] = value
        return value

    def _value(self, number: float) -> float:
        if complaint := self._scale.complaint(number):
            raise BadLine(f"value: {complaint}")
        return float(number)

    def _time(self, time: Any) -> int:
        """Seconds since 1970 or ISO 8601."""
        rated_us = _microseconds(time)
        if 0 <= rated_us <= self._latest_us:
            return rated_us
        if complaint := complaint_about_time(rated_us, latest_us()):  # a long import outlives its first clock
            raise BadLine(f"rated_at: {complaint}")
        return rated_us


def _id_of(record: Mapping[str, Any], keys: Mapping[str, str], field: str) -> str:
    """Whole numbers are ids too: files of other systems often hold them."""
    value = record.get(keys[field])
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise BadLine(f"{field}: {'must be text' if keys[field] in record else 'is missing'}")


def _number(text: str, field: str) -> float:
    try:
        if "_" in text:  # Python's, nobody else's
            raise ValueError
        return float(text)
    except ValueError:
        raise BadLine(f"{field}: must be a number") from None


def _microseconds(time: Any) -> int:
    if isinstance(time, str):
        if time.isascii() and time.isdigit() and len(time) < 20:
            return int(time) * 1_000_000
        try:
            return time_of_text(time)
        except ValueError as error:
            complaint = str(error)
        try:
            time = float(time)
        except ValueError:
            raise BadLine(f"rated_at: {complaint}, or seconds since 1970") from None
    if isinstance(time, bool) or not isinstance(time, int | float) or not abs(time) < 1e15:
        raise BadLine("rated_at: must be a time")
    return round(time * 1_000_000)
