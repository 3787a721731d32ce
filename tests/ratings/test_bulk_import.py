"""Files of ratings in every way they are written, and what is said about their bad lines."""

import csv
import gzip
import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest

import migrations
from app.db.engine import Database, open_database
from app.errors import BadInput
from app.imports import line_reader
from app.ratings import export, store
from app.ratings.bulk_import import ImportOptions, ImportProgress, ImportReport, begin_import, import_ratings
from app.ratings.bulk_read import hold_snapshot
from app.settings import Imports, RatingScale, Settings

ROWS = [("ann", "dune", 4.5, 1260759144), ("ann", "heat", 3.0, 1260759179), ("bob", "dune", 1.0, 1260759182)]


def import_text(database: Database, settings: Settings, text: str | bytes, **options: str) -> ImportReport:
    content = text.encode() if isinstance(text, str) else text
    return import_ratings(database, settings, iter([content]), ImportOptions(**options))  # type: ignore[arg-type]


def digest(database: Database) -> str:
    with database.read() as connection:
        hold_snapshot(connection)
        return export.ratings_digest(connection)


def expected_digest(rows: Iterable[tuple[str, str, float, int]]) -> str:
    """The digest as its docstring describes it, the slow way."""
    expected = hashlib.sha256()
    for user_id, of_user in groupby(sorted(rows), key=lambda row: row[0]):
        ratings = list(of_user)
        expected.update("\n".join([user_id, str(len(ratings)), *(row[1] for row in ratings)]).encode())
        expected.update(struct.pack(f"<{len(ratings)}d", *(row[2] for row in ratings)))
        expected.update(struct.pack(f"<{len(ratings)}q", *(row[3] * 1_000_000 for row in ratings)))
    return expected.hexdigest()


@pytest.fixture
def sqlite(sqlite_settings: Settings) -> Iterator[Database]:
    database = open_database(sqlite_settings)
    yield database
    database.dispose()


def delimited(delimiter: str, header: str = "") -> str:
    lines = [delimiter.join(map(str, row)) for row in ROWS]
    return "\n".join([header, *lines] if header else lines) + "\n"


FILES: dict[str, tuple[str | bytes, dict[str, str]]] = {
    "MovieLens header": (delimited(",", "userId,movieId,rating,timestamp"), {}),
    "our own header": (delimited(",", "user_id,item_id,value,rated_at"), {}),
    "no header": (delimited(","), {}),
    "no final newline": (delimited(",").rstrip("\n"), {}),
    "CRLF": (delimited(",", "userId,movieId,rating,timestamp").replace("\n", "\r\n"), {}),
    "byte order mark": (b"\xef\xbb\xbf" + delimited(",", "userId,movieId,rating,timestamp").encode(), {}),
    "blank lines": ("\n\n" + delimited(",").replace("\n", "\n\n \n"), {}),
    "quoted": ('"ann","dune","4.5","1260759144"\n"ann","heat","3.0","1260759179"\n"bob","dune",1,1260759182\n', {}),
    "u.data": (delimited("\t"), {}),
    "double colon": (delimited("::"), {}),
    "semicolons": (delimited(";", "User;Item;Rating;Timestamp"), {}),
    "other order and more columns": (
        "rating,title,movieId,timestamp,userId\n"
        + "".join(f"{value},Title of {item},{item},{time},{user}\n" for user, item, value, time in ROWS),
        {},
    ),
    "columns given": (
        delimited(",", "who,what,liked,when"),
        {"user_column": "who", "item_column": "what", "value_column": "liked", "rated_at_column": "when"},
    ),
    "ndjson": (
        "".join(
            json.dumps({"user_id": user, "item_id": item, "value": value, "rated_at": time}) + "\n"
            for user, item, value, time in ROWS
        ),
        {},
    ),
    "ndjson with ISO times": (
        "".join(
            json.dumps(
                {
                    "userId": user,
                    "movieId": item,
                    "rating": value,
                    "timestamp": datetime.fromtimestamp(time, UTC).isoformat(),
                }
            )
            + "\n"
            for user, item, value, time in ROWS
        ),
        {},
    ),
    "gzip": (gzip.compress(delimited(",").encode()), {}),
    "gzip in two members": (
        gzip.compress(delimited(",").encode()[:20]) + gzip.compress(delimited(",").encode()[20:]),
        {},
    ),
    "format given": (delimited("::"), {"file_format": "double_colon"}),
}


@pytest.mark.parametrize("name", FILES)
def test_every_way_to_write_the_file_gives_the_same_ratings(
    sqlite: Database, sqlite_settings: Settings, name: str
) -> None:
    text, options = FILES[name]
    report = import_text(sqlite, sqlite_settings, text, **options)
    assert (report.bad_lines, report.created, report.lines) == ([], 3, 3)
    assert digest(sqlite) == expected_digest(ROWS)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_blocks_may_end_anywhere(sqlite: Database, sqlite_settings: Settings, size: int) -> None:
    content = "﻿userId,movieId,rating\r\nann,düne,4\r\nann,heat,nan\r\nbob,dune,1".encode()
    report = import_ratings(sqlite, sqlite_settings, (content[at : at + size] for at in range(0, len(content), size)))
    assert (report.created, [line.line for line in report.bad_lines]) == (2, [3])


def test_an_import_again_changes_nothing(database: Database, settings: Settings) -> None:
    first = import_text(database, settings, delimited(","))
    before = digest(database)
    second = import_text(database, settings, delimited(","))
    assert (first.created, first.revision) == (3, 3)
    assert (second.created, second.updated, second.unchanged, second.revision) == (0, 0, 3, 3)
    assert digest(database) == before


def test_an_import_without_times_again_changes_nothing(database: Database, settings: Settings) -> None:
    import_text(database, settings, "ann,dune,4\n")
    before = digest(database)
    assert import_text(database, settings, "ann,dune,4\n").unchanged == 1
    assert digest(database) == before


def test_importing_a_file_again_that_contradicts_itself_across_batches_counts_updates_and_ends_at_the_later_line(
    database: Database, settings: Settings
) -> None:
    small = limited(settings, batch_size=2)
    text = "ann,dune,4,1\nbob,dune,4,1\nann,dune,5,2\nann,dune,3,3\n"
    first = import_text(database, small, text)
    before = digest(database)
    second = import_text(database, small, text)
    assert (first.created, first.updated, first.duplicates) == (2, 1, 1)
    assert (second.created, second.updated, second.unchanged, second.duplicates) == (0, 2, 1, 1)
    assert digest(database) == before == expected_digest([("ann", "dune", 3.0, 3), ("bob", "dune", 4.0, 1)])


def test_an_import_that_commits_nothing_names_the_newest_revision(database: Database, settings: Settings) -> None:
    import_text(database, settings, delimited(","))
    assert import_text(database, settings, "").revision == 3
    assert import_text(database, settings, "user,item,rating\nann,dune,bad\n").revision == 3


def test_an_import_that_breaks_off_keeps_and_counts_what_was_committed(database: Database, settings: Settings) -> None:
    running = begin_import(database, limited(settings, batch_size=2))
    running.feed(b"ann,dune,4\nann,heat,bad\nbob,dune,4\nbob,heat,4\nbob,alien,4")
    report = running.break_off("enough")
    assert (report.lines, report.created, report.duplicates, report.bad, report.revision) == (3, 2, 0, 1, 2)
    assert report.stopped_because == "enough"
    with database.read() as connection:
        assert store.totals(connection).n_ratings == 2


BAD_LINES = {
    "ann,dune,9": "value: must be a number from 0.5 to 5",
    "ann,dune,nan": "value: must be a number from 0.5 to 5",
    "ann,dune,inf": "value: must be a number from 0.5 to 5",
    "ann,dune,good": "value: must be a number",
    "ann,dune,4_0": "value: must be a number",
    "ann,dune,": "value: must be a number",
    ",dune,4": "user_id: must have 1 to 128 characters",
    f"ann,{'x' * 129},4": "item_id: must have 1 to 128 characters",
    "ann,a/b,4": "item_id: must not contain '/'",
    "ann,a\x00b,4": "item_id: must consist of printable characters",
    "ann,dune": "has 2 columns, not 4",
    "ann,dune,4,1,1": "has 5 columns, not 4",
    "ann,dune,4,99999999999": "rated_at: must not be in the future",
    "ann,dune,4,99999999999999999999999": "rated_at: must be a time",
    "ann,dune,4,yesterday": "rated_at: must be an ISO 8601 time",
    "ann,dune,4,2020-01-01T00:00:00": "rated_at: must name its time zone",
    "ann,dune,4,-99999999999": "rated_at: must not lie before the year 1",
    '"ann,dune,4,1': "is not a CSV record",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_reported_with_its_number_and_reason_and_left_out(
    sqlite: Database, sqlite_settings: Settings, line: str
) -> None:
    text = f"userId,movieId,rating,timestamp\nbob,dune,4,1\n\n{_padded(line)}\nbob,heat,4,1\n"
    report = import_text(sqlite, sqlite_settings, text)
    assert (report.created, report.bad, report.stopped_because) == (2, 1, None)
    assert report.bad_lines[0].line == 4
    assert report.bad_lines[0].reason.startswith(BAD_LINES[line])
    assert report.bad_lines[0].text == _padded(line)[:200]


def _padded(line: str) -> str:
    return line + "," if line.count(",") == 2 else line


BAD_RECORDS = {
    '{"user_id": "ann", "item_id": "dune", "value": NaN}': "value: must be a number from 0.5 to 5",
    '{"user_id": "ann", "item_id": "dune", "value": 1e999}': "value: must be a number from 0.5 to 5",
    '{"user_id": "ann", "item_id": "dune", "value": "4"}': "value: must be a number",
    '{"user_id": "ann", "item_id": "dune", "value": true}': "value: must be a number",
    '{"user_id": "ann", "item_id": "dune", "value": null}': "value: must be a number",
    '{"user_id": "ann", "item_id": "dune"}': "value: is missing",
    '{"user_id": true, "item_id": "dune", "value": 4}': "user_id: must be text",
    '{"user_id": "ann", "value": 4}': "item_id: is missing",
    '{"user_id": "\\ud800", "item_id": "dune", "value": 4}': "user_id: must consist of printable characters",
    '{"user_id": "ann", "item_id": "dune", "value": 4, "rated_at": true}': "rated_at: must be a time",
    '{"user_id": "ann", "item_id": "dune", "value": 4, "rated_at": 1e400}': "rated_at: must be a time",
    '["ann", "dune", 4]': "is not a JSON object",
    '{"user_id": "ann"': "is not JSON",
    "[" * 100_000: "is not JSON",
    "9" * 5_000: "is not JSON",
}


@pytest.mark.parametrize("line", BAD_RECORDS, ids=lambda line: line[:60])
def test_a_bad_ndjson_line_is_reported(sqlite: Database, sqlite_settings: Settings, line: str) -> None:
    good = '{"user_id": "bob", "item_id": "dune", "value": 4}'
    report = import_text(sqlite, sqlite_settings, f"{good}\n{line}\n")
    assert (report.created, report.bad, report.bad_lines[0].line) == (1, 1, 2)
    assert report.bad_lines[0].reason.startswith(BAD_RECORDS[line])


def test_a_huge_whole_number_is_off_the_scale_and_no_crash(sqlite: Database, sqlite_settings: Settings) -> None:
    line = '{"user_id": "ann", "item_id": "dune", "value": 1' + "0" * 400 + "}"
    assert import_text(sqlite, sqlite_settings, line).bad == 1


def test_whole_numbers_are_ids_in_ndjson(sqlite: Database, sqlite_settings: Settings) -> None:
    assert import_text(sqlite, sqlite_settings, '{"userId": 1, "movieId": 31, "rating": 2.5}').created == 1
    with sqlite.read() as connection:
        assert store.get(connection, "1", "31").value == 2.5


def test_lines_in_another_encoding_are_bad_one_by_one(sqlite: Database, sqlite_settings: Settings) -> None:
    content = "ann,dune,4\nann,dïne,4\nann,heat,4\n".encode("latin-1")
    report = import_text(sqlite, sqlite_settings, content)
    assert (report.created, [line.line for line in report.bad_lines]) == (2, [2])
    assert report.bad_lines[0].reason == "is not utf-8 text: byte 6 is 0xef"
    assert import_text(sqlite, sqlite_settings, content, encoding="latin-1").bad == 0


def test_steps_of_the_scale_are_kept(sqlite: Database, sqlite_settings: Settings) -> None:
    stepped = sqlite_settings.model_copy(update={"rating": RatingScale(min=1, max=5, step=0.5)})
    report = import_text(sqlite, stepped, "ann,dune,4.5\nann,heat,4.4\n")
    assert [line.reason for line in report.bad_lines] == ["value: must be 1 plus a multiple of 0.5"]


@pytest.mark.parametrize(
    ("text", "options", "field"),
    [
        ("this is no file of ratings\n", {}, "line 1"),
        ("title,year\nDune,2021\n", {}, "line 1"),
        ("who,what,liked\nann,dune,4\n", {"user_column": "nobody"}, "line 1"),
        ("ann,dune,4\n", {"file_format": "tsv"}, "line 1"),
        ("ann,dune,4\n".encode("utf-16"), {}, "body"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(
    sqlite: Database, sqlite_settings: Settings, text: str | bytes, options: dict[str, str], field: str
) -> None:
    with pytest.raises(BadInput) as refused:
        import_text(sqlite, sqlite_settings, text, **options)
    assert refused.value.errors[0].field == field


def test_an_empty_file_is_an_import_of_nothing(sqlite: Database, sqlite_settings: Settings) -> None:
    assert import_text(sqlite, sqlite_settings, "") == ImportReport()
    assert import_text(sqlite, sqlite_settings, "\n\r\n").lines == 0


def limited(settings: Settings, **limits: int) -> Settings:
    return settings.model_copy(update={"imports": Imports(**limits)})


def test_after_too_many_bad_lines_an_import_stops_and_says_what_was_committed(
    database: Database, settings: Settings
) -> None:
    lines = [f"u{n},dune,{4 if n % 2 else 'bad'}" for n in range(100)]
    few = limited(settings, batch_size=3, max_bad_lines=5, reported_bad_lines=2)
    report = import_text(database, few, "\n".join(["user,item,rating", *lines]))
    assert report.stopped_because == "more than 5 bad lines; every good line before line 12 is saved"
    assert (report.created, report.bad, len(report.bad_lines)) == (5, 6, 2)
    with database.read() as connection:
        assert store.totals(connection).n_ratings == report.created


def test_a_damaged_gzip_file_says_what_was_committed_before_the_damage(
    sqlite: Database, sqlite_settings: Settings
) -> None:
    text = "".join(f"u{n},i{n * 7919 % 1000},4\n" for n in range(50_000))
    packed = gzip.compress(text.encode())
    broken_off = import_text(sqlite, sqlite_settings, packed[:-2000])
    assert broken_off.stopped_because == "the gzip stream ends unexpectedly"
    assert 0 < broken_off.created < 50_000
    damaged = import_text(sqlite, sqlite_settings, packed[:50_000] + b"\xff" * 100 + packed[50_100:])
    assert damaged.stopped_because is not None
    assert damaged.stopped_because.startswith("the gzip stream is damaged")


def test_a_file_that_unpacks_to_hundreds_of_times_its_size_is_broken_off(
    sqlite: Database, sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte that unpacks to a gigabyte of line ends kept the service busy for minutes."""
    monkeypatch.setattr(line_reader, "_UNPACKED_FREELY", 1 << 20)
    bomb = gzip.compress(b"ann,dune,4\n" + b"\n" * 50_000_000)
    assert len(bomb) < 100_000
    report = import_text(sqlite, sqlite_settings, bomb)
    assert report.stopped_because == "the gzip stream decompresses to more than 200 times its size"
    assert (report.created, report.lines < 40_000_000) == (1, True)


def test_a_line_without_end_does_not_fill_the_memory_and_is_one_bad_line(
    sqlite: Database, sqlite_settings: Settings
) -> None:
    blocks = [b"ann,dune,4\n", *[b"x" * 1_000_000] * 5, b"\nann,heat,4\n"]
    report = import_ratings(sqlite, sqlite_settings, iter(blocks))
    assert (report.created, [line.line for line in report.bad_lines]) == (2, [2])
    assert report.bad_lines[0].reason == "is longer than 1048576 bytes"


def test_counts_of_an_import_add_up_to_its_lines(database: Database, settings: Settings) -> None:
    import_text(database, settings, "ann,dune,4\nann,heat,4\n")
    text = "ann,dune,4\nann,heat,5\nann,alien,1\nann,alien,2\nann,alien,9\n"
    report = import_text(database, settings, text)
    assert (report.created, report.updated, report.unchanged, report.duplicates, report.bad) == (1, 1, 1, 1, 1)
    assert report.lines == 5
    with database.read() as connection:
        assert store.get(connection, "ann", "alien").value == 2.0


def test_progress_is_told_with_every_batch(sqlite: Database, sqlite_settings: Settings) -> None:
    told: list[ImportProgress] = []
    settings = limited(sqlite_settings, batch_size=2)
    import_ratings(
        sqlite, settings, iter([b"ann,dune,4\nann,heat,9\nann,heat,4\nbob,heat,4\n"]), on_progress=told.append
    )
    assert [(step.lines, step.saved, step.bad) for step in told] == [(3, 2, 1), (4, 3, 1)]
    assert told[-1].n_bytes == 44


def movielens_rows(folder: Path) -> list[list[str]]:
    with (folder / "ratings.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


@cache
def movielens_digest(folder: Path) -> str:
    return expected_digest((row[0], row[1], float(row[2]), int(row[3])) for row in movielens_rows(folder))


@pytest.mark.parametrize(
    "write",
    [
        lambda rows: "\n".join(",".join(row) for row in reversed(rows)),
        lambda rows: "\n".join("\t".join(row) for row in rows),
        lambda rows: "\n".join("::".join(row) for row in rows),
        lambda rows: "\n".join(
            json.dumps({"user_id": row[0], "item_id": row[1], "value": float(row[2]), "rated_at": int(row[3])})
            for row in rows
        ),
    ],
    ids=["csv backwards", "tabs", "double colon", "ndjson"],
)
def test_movielens_gives_one_digest_in_every_format(
    sqlite: Database, sqlite_settings: Settings, movielens: Path, write: Callable[[list[list[str]]], str]
) -> None:
    assert import_text(sqlite, sqlite_settings, write(movielens_rows(movielens))).created == 100_836
    assert digest(sqlite) == movielens_digest(movielens)


@pytest.mark.parametrize("file_format", ["csv", "ndjson"])
def test_movielens_gives_the_same_digest_on_both_databases_and_after_export(
    database: Database, settings: Settings, tmp_path: Path, movielens: Path, file_format: export.ExportFormat
) -> None:
    with (movielens / "ratings.csv").open("rb") as file:
        report = import_ratings(database, settings, file)
    assert (report.created, report.bad, report.revision) == (100_836, 0, 100_836)
    assert digest(database) == movielens_digest(movielens)
    elsewhere = Settings(data_dir=tmp_path / "elsewhere")
    other = open_database(elsewhere)
    migrations.upgrade(other, elsewhere)
    with database.read() as connection:
        import_ratings(other, elsewhere, export.export(connection, file_format))
    assert digest(other) == movielens_digest(movielens)
    other.dispose()
