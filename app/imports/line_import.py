"""The course of every bulk import: lines become rows, rows become committed batches, bad lines are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Generic, NamedTuple, TypeVar

from app.imports.file_layout import BadLine, Layout, LayoutRules
from app.imports.line_reader import DamagedStream, Encoding, LineReader, Lines
from app.imports.schemas import BadLineOut, ImportReport
from app.settings import Imports

Row = TypeVar("Row")

BLOCK_BYTES = 1 << 20
_QUOTED_CHARACTERS = 200


class BatchCounts(NamedTuple):
    """How many rows of a batch had each outcome; `revision` is the newest revision after it."""

    created: int
    updated: int
    unchanged: int
    revision: int


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far an import has got; `n_bytes` counts compressed bytes if the file is compressed."""

    n_bytes: int
    lines: int
    saved: int
    bad: int


OnProgress = Callable[[ImportProgress], None]


class LineImport(Generic[Row]):
    """Takes blocks of bytes by `feed`, then `finish`. No transaction is open between two calls.

    `parser_of` returns the function that turns a line into a row or raises BadLine; `save` commits a batch;
    `newest_revision` is called if there was nothing to commit.
    """

    def __init__(
        self,
        rules: LayoutRules,
        parser_of: Callable[[Layout], Callable[[str], Row]],
        save: Callable[[list[Row]], BatchCounts],
        newest_revision: Callable[[], int],
        limits: Imports,
        encoding: Encoding = "utf-8",
        on_progress: OnProgress | None = None,
    ) -> None:
        self._rules = rules
        self._parser_of = parser_of
        self._save = save
        self._newest_revision = newest_revision
        self._limits = limits
        self._reader = LineReader(encoding)
        self._on_progress = on_progress
        self._parse: Callable[[str], Row] | None = None
        self._batch: list[Row] = []
        self._n_bytes = 0
        self._n_good = 0
        self._report = ImportReport()

    @property
    def is_stopped(self) -> bool:
        return self._report.stopped_because is not None

    def feed(self, block: bytes) -> None:
        """Take the next bytes and commit every full batch; raises BadInput if the first line is not understood."""
        if self.is_stopped:
            return
        self._n_bytes += len(block)
        self._take(self._reader.feed(block))

    def finish(self) -> ImportReport:
        """Commit the rest and return the report."""
        if not self.is_stopped:
            self._take(self._reader.finish())
        self._commit()
        return self._finished()

    def break_off(self, reason: str) -> ImportReport:
        """Return the report without committing the rest, which may end in half a line."""
        self._n_good -= len(self._batch)
        self._batch = []
        self._report.stopped_because = reason
        self._report.lines = self._n_good + self._report.bad
        return self._finished()

    def _finished(self) -> ImportReport:
        if not self._n_saved:
            self._report.revision = self._newest_revision()
        self._report.duplicates = self._n_good - self._n_saved
        return self._report

    @property
    def _n_saved(self) -> int:
        return self._report.created + self._report.updated + self._report.unchanged

    def _take(self, blocks: Iterator[Lines]) -> None:
        try:
            for lines in blocks:
                self._take_lines(lines)
                if self.is_stopped:
                    return
        except DamagedStream as error:
            self._report.stopped_because = str(error)

    def _take_lines(self, lines: Lines) -> None:
        for number, text in enumerate(lines.texts, lines.first_number):
            if number in lines.bad:
                self._reject(number, "", lines.bad[number])
            elif text and not text.isspace():
                self._take_line(number, text)
            if self.is_stopped:
                return

    def _take_line(self, number: int, text: str) -> None:
        if self._parse is None:
            layout = self._rules.recognise(text)
            self._parse = self._parser_of(layout)
            self._report.format = layout.description
            if layout.has_header:
                return
        try:
            self._batch.append(self._parse(text))
        except BadLine as error:
            self._reject(number, text, error.reason)
            return
        self._n_good += 1
        if len(self._batch) >= self._limits.batch_size:
            self._commit()

    def _reject(self, number: int, text: str, reason: str) -> None:
        self._report.bad += 1
        if len(self._report.bad_lines) < self._limits.reported_bad_lines:
            self._report.bad_lines.append(BadLineOut(line=number, reason=reason, text=text[:_QUOTED_CHARACTERS]))
        if self._report.bad > self._limits.max_bad_lines:
            self._report.stopped_because = (
                f"more than {self._limits.max_bad_lines} bad lines; every good line before line {number} is saved"
            )

    def _commit(self) -> None:
        if self._batch:
            counts = self._save(self._batch)
            self._batch = []
            self._report.created += counts.created
            self._report.updated += counts.updated
            self._report.unchanged += counts.unchanged
            self._report.revision = counts.revision
        self._report.lines = self._n_good + self._report.bad
        if self._on_progress:
            self._on_progress(ImportProgress(self._n_bytes, self._report.lines, self._n_saved, self._report.bad))


def run_import(line_import: LineImport[Row], source: BinaryIO | Iterable[bytes]) -> ImportReport:
    """Feed a file, or any iterable of bytes, until it ends or the import stops."""
    for block in blocks_of(source):
        line_import.feed(block)
        if line_import.is_stopped:
            break
    return line_import.finish()


def blocks_of(source: BinaryIO | Iterable[bytes]) -> Iterable[bytes]:
    """A file in blocks; any other iterable of bytes as it is."""
    return source if not hasattr(source, "read") else iter(lambda: source.read(BLOCK_BYTES), b"")


def named_columns(**columns: str | None) -> dict[str, str]:
    """The column names that the caller set, by field."""
    return {field: column for field, column in columns.items() if column is not None}
