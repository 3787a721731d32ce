"""Files of item metadata."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.db.engine import Database, open_database
from app.errors import BadInput
from app.imports.schemas import ImportReport
from app.items import store
from app.items.bulk_import import ItemImportOptions, import_items
from app.settings import Settings


@pytest.fixture
def sqlite(sqlite_settings: Settings) -> Iterator[Database]:
    database = open_database(sqlite_settings)
    yield database
    database.dispose()


def import_text(database: Database, settings: Settings, text: str, **options: Any) -> ImportReport:
    encoding = options.get("encoding", "utf-8")
    return import_items(database, settings, iter([text.encode(encoding)]), ItemImportOptions(**options))


def item(database: Database, item_id: str) -> Any:
    with database.read() as connection:
        return store.get(connection, item_id)


FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "movies.csv": ('movieId,title,genres\n6,Heat,Drama\n1,"Dune, Part One (2021)",Sci-Fi|Drama\n', {}),
    "our own": ('item_id,title,categories\n1,"Dune, Part One (2021)",Sci-Fi|Drama\n', {}),
    "movies.dat": ("1::Dune, Part One (2021)::Sci-Fi|Drama\n", {}),
    "no header": ('1,"Dune, Part One (2021)",Sci-Fi|Drama\n', {}),
    "columns given": (
        "kind;what;number\nSci-Fi|Drama;Dune, Part One (2021);1\n",
        {"item_column": "number", "title_column": "what", "categories_column": "kind"},
    ),
    "ndjson": ('{"item_id": "1", "title": "Dune, Part One (2021)", "categories": ["Sci-Fi", "Drama"]}\n', {}),
    "ndjson with text": ('{"movieId": 1, "title": "Dune, Part One (2021)", "genres": "Sci-Fi|Drama"}\n', {}),
}


@pytest.mark.parametrize("name", FILES)
def test_every_way_to_write_the_file_gives_the_same_item(
    sqlite: Database, sqlite_settings: Settings, name: str
) -> None:
    text, options = FILES[name]
    assert import_text(sqlite, sqlite_settings, text, **options).bad == 0
    found = item(sqlite, "1")
    assert (found.title, found.categories) == ("Dune, Part One (2021)", ["Sci-Fi", "Drama"])


def test_an_import_keeps_what_the_file_does_not_speak_of(database: Database, settings: Settings) -> None:
    with database.write() as connection:
        store.write_many(connection, {"1": {"title": "old", "attributes": {"year": 2021}, "hidden": True}})
    report = import_text(database, settings, "movieId,title\n1,Dune\n2,Heat\n")
    assert (report.created, report.updated, report.revision) == (1, 1, 3)
    found = item(database, "1")
    assert (found.title, found.attributes, found.hidden) == ("Dune", {"year": 2021}, True)
    assert import_text(database, settings, "movieId,title\n1,Dune\n2,Heat\n").unchanged == 2


def test_an_import_that_commits_nothing_names_the_newest_revision(database: Database, settings: Settings) -> None:
    import_text(database, settings, "movieId,title\n1,Dune\n2,Heat\n")
    assert import_text(database, settings, "").revision == 2


def test_ndjson_may_hold_every_field(sqlite: Database, sqlite_settings: Settings) -> None:
    line = {"item_id": "1", "title": None, "categories": [], "attributes": {"a": [1]}, "hidden": True}
    assert import_text(sqlite, sqlite_settings, json.dumps(line)).created == 1
    assert (item(sqlite, "1").attributes, item(sqlite, "1").hidden) == ({"a": [1]}, True)


def test_no_genres_listed_is_no_category(sqlite: Database, sqlite_settings: Settings) -> None:
    import_text(sqlite, sqlite_settings, "movieId,title,genres\n1,Dune,(no genres listed)\n2,Heat,\n")
    assert item(sqlite, "1").categories == item(sqlite, "2").categories == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (",Dune,Drama", "item_id: must have 1 to 128 characters"),
        ("1/2,Dune,Drama", "item_id: must not contain '/'"),
        (f"1,{'x' * 1001},Drama", "title: "),
        ("1,a\x00b,Drama", "title: "),
        ("1,Dune", "has 2 columns, not 3"),
        ('1,"Dune,Drama', "is not a CSV record"),
    ],
)
def test_a_bad_line_is_reported_and_left_out(
    sqlite: Database, sqlite_settings: Settings, line: str, reason: str
) -> None:
    report = import_text(sqlite, sqlite_settings, f"movieId,title,genres\n2,Heat,Drama\n{line}\n")
    assert (report.created, report.bad, report.bad_lines[0].line) == (1, 1, 3)
    assert report.bad_lines[0].reason.startswith(reason)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"title": "Dune"}', "item_id: must be text"),
        ('{"item_id": "1", "title": 7}', "title: "),
        ('{"item_id": "1", "hidden": 1}', "hidden: "),
        ('{"item_id": "1", "categories": ["a", 7]}', "categories[1]: "),
        ('{"item_id": "1", "attributes": {"a": NaN}}', "attributes: "),
        (f'{{"item_id": "1", "attributes": {{"a": {"[" * 400}{"]" * 400}}}}}', "attributes: "),
    ],
)
def test_a_bad_ndjson_line_is_reported(sqlite: Database, sqlite_settings: Settings, line: str, reason: str) -> None:
    report = import_text(sqlite, sqlite_settings, f"{line}\n")
    assert (report.created, report.bad) == (0, 1)
    assert report.bad_lines[0].reason.startswith(reason)


def test_old_files_in_latin_1_can_be_read(sqlite: Database, sqlite_settings: Settings) -> None:
    import_text(sqlite, sqlite_settings, "1::Misérables, Les::Drama\n", encoding="latin-1")
    assert item(sqlite, "1").title == "Misérables, Les"


def test_a_file_that_makes_no_sense_is_refused(sqlite: Database, sqlite_settings: Settings) -> None:
    with pytest.raises(BadInput):
        import_text(sqlite, sqlite_settings, "what is this\n")


def test_movielens_has_its_titles_after_the_import(database: Database, settings: Settings, movielens: Path) -> None:
    with (movielens / "movies.csv").open("rb") as file:
        report = import_items(database, settings, file)
    assert (report.created, report.bad) == (9742, 0)
    assert item(database, "1").title == "Toy Story (1995)"
    assert item(database, "11").title == "American President, The (1995)"
    with database.read() as connection:
        rows, _ = store.page(connection, 10, None, "TOY story", "Animation")
    assert "1" in [row.item_id for row in rows]
