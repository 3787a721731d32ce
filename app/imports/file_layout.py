"""The layout of a file by its first line: NDJSON or a delimiter, with or without header, and the fields' columns."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from app.errors import BadInput
from app.imports.file_options import FileFormat as FileFormat

_DELIMITERS: dict[FileFormat, tuple[str, ...]] = {
    "auto": (",", "\t", "::", ";"),
    "csv": (",", ";"),
    "tsv": ("\t",),
    "double_colon": ("::",),
}
_DELIMITER_NAMES = {",": "csv", ";": "csv with semicolons", "\t": "tsv", "::": "double_colon"}


class BadLine(Exception):
    """Why one line of a file cannot be used."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Field(NamedTuple):
    """A field that a file may contain, and the column names by which it is recognised."""

    name: str
    column_names: frozenset[str]
    is_required: bool

    @classmethod
    def of(cls, name: str, *synonyms: str, is_required: bool = False) -> "Field":
        return cls(name, frozenset(map(_plain, (name, *synonyms))), is_required)


@dataclass(frozen=True, slots=True)
class Table:
    """A file with one delimited record a line; `positions` says in which column each field stands."""

    delimiter: str
    positions: Mapping[str, int]
    n_columns: int
    has_header: bool

    @property
    def description(self) -> str:
        return _DELIMITER_NAMES[self.delimiter] + (" with header" if self.has_header else " without header")

    def split(self, text: str) -> list[str]:
        """The columns of one line, quotes undone; raises BadLine when their number or a quote is wrong."""
        columns = split(text, self.delimiter)
        if len(columns) != self.n_columns:
            raise BadLine(f"has {len(columns)} columns, not {self.n_columns}")
        return columns


@dataclass(frozen=True, slots=True)
class Records:
    """A file with one JSON object a line; `keys` says under which key each field stands."""

    keys: Mapping[str, str]
    has_header: bool = False
    description: str = "ndjson"


Layout = Table | Records


@dataclass(frozen=True, slots=True)
class LayoutRules:
    """How to recognise a layout: the fields in their usual order, and what the caller said about the file."""

    fields: Sequence[Field]
    is_record: Callable[[Sequence[str]], bool]  # whether these columns look like a record without header
    file_format: FileFormat = "auto"
    columns: Mapping[str, str] | None = None  # field name -> column name; the header must have them

    def recognise(self, first_line: str) -> Layout:
        """The layout of a file with this first line; raises BadInput if there is none."""
        is_object = first_line.lstrip().startswith("{")
        if self.file_format == "ndjson" or (self.file_format == "auto" and is_object):
            return self._records(first_line)
        present = (delimiter for delimiter in _DELIMITERS[self.file_format] if delimiter in first_line)
        for delimiter in sorted(present, key=first_line.index):  # titles hold commas, ids hardly any delimiter
            if table := self._table(first_line, delimiter):
                return table
        raise BadInput.at("line 1", self._complaint())

    def _table(self, first_line: str, delimiter: str) -> Table | None:
        try:
            columns = split(first_line, delimiter)
        except BadLine:
            return None
        if positions := self._header(columns):
            return Table(delimiter, positions, len(columns), has_header=True)
        if not self.columns and self.is_record(columns):
            positions = {field.name: index for index, field in enumerate(self.fields[: len(columns)])}
            return Table(delimiter, positions, len(columns), has_header=False)
        return None

    def _header(self, columns: Sequence[str]) -> dict[str, int] | None:
        """Where each field stands if this is a header that names all that is required."""
        positions: dict[str, int] = {}
        for field in self.fields:
            names = self._names_of(field)
            index = next((index for index, column in enumerate(columns) if _plain(column) in names), None)
            if index is not None:
                positions[field.name] = index
            elif field.is_required or (self.columns and field.name in self.columns):
                return None
        return positions

    def _names_of(self, field: Field) -> frozenset[str]:
        column = (self.columns or {}).get(field.name)
        return field.column_names if column is None else frozenset({_plain(column)})

    def _records(self, first_line: str) -> Records:
        try:
            first = parse_object(first_line)
        except BadLine:
            first = {}
        keys = {}
        for field in self.fields:
            column = (self.columns or {}).get(field.name)
            known = (key for key in first if _plain(key) in field.column_names)
            keys[field.name] = column or next(known, field.name)
        return Records(keys)

    def _complaint(self) -> str:
        if self.columns:
            return f"is no header with the columns {', '.join(map(repr, self.columns.values()))}"
        names = ", ".join(field.name for field in self.fields)
        return f"is neither a header nor a record that is understood; expected are {names}"


def split(text: str, delimiter: str) -> list[str]:
    """The columns of one line; quotes as in RFC 4180, but a quoted column ends on its line."""
    if '"' not in text or delimiter == "::":
        return text.split(delimiter)
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise BadLine(f"is not a CSV record: {error}") from error


def parse_object(text: str) -> dict[str, Any]:
    """One line of NDJSON; raises BadLine when it is anything but a JSON object."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadLine(f"is not JSON: {str(error)[:100]}") from error
    if not isinstance(parsed, dict):
        raise BadLine("is not a JSON object")
    return parsed


def _plain(column: str) -> str:
    return column.strip().lower().replace("_", "").replace(" ", "").replace("-", "")
