"""Items: metadata, keys, search and what caches are told."""

import threading
from typing import Any

import pytest

from app.db.engine import Database
from app.db.revisions import revision
from app.imports.line_import import BatchCounts
from app.items import store
from app.items.store import UnknownItem

DUNE = {"title": "Dune (2021)", "categories": ["Sci-Fi"], "attributes": {"year": 2021}, "hidden": False}


def write(database: Database, **items: dict[str, Any]) -> BatchCounts:
    with database.write() as connection:
        return store.write_many(connection, items)


def found(database: Database, title: str | None = None, category: str | None = None) -> list[str]:
    with database.read() as connection:
        rows, _ = store.page(connection, 100, None, title, category)
    return [row.item_id for row in rows]


def test_writing_counts_created_updated_and_unchanged_items(database: Database) -> None:
    assert write(database, dune=DUNE, heat={"title": "Heat"}) == (2, 0, 0, 2)
    assert write(database, dune=DUNE, heat={"title": "Heat (1995)"}, alien={}) == (1, 1, 1, 4)


def test_fields_that_are_not_given_stay(database: Database) -> None:
    write(database, dune=DUNE)
    write(database, dune={"hidden": True})
    with database.read() as connection:
        row = store.get(connection, "dune")
    assert (row.title, row.categories, row.attributes, row.hidden, row.revision) == (
        "Dune (2021)",
        ["Sci-Fi"],
        {"year": 2021},
        True,
        2,
    )


@pytest.mark.parametrize(("before", "after"), [(1, True), (1, 1.0), ([0], [False]), ({"a": 1}, {"a": True})])
def test_values_that_only_python_takes_for_equal_are_a_change(database: Database, before: Any, after: Any) -> None:
    write(database, dune={"attributes": {"x": before}})
    assert write(database, dune={"attributes": {"x": after}}).updated == 1
    assert write(database, dune={"attributes": {"x": after}}).unchanged == 1


def test_items_are_made_for_ids_that_are_new_and_only_those(database: Database) -> None:
    with database.write() as connection:
        first = store.ensure_items(connection, ["dune", "heat", "dune"])
        second = store.ensure_items(connection, ["heat", "alien"])
        assert set(first) == {"dune", "heat"}
        assert second["heat"] == first["heat"]
        assert len({*first.values(), *second.values()}) == 3
        assert revision(connection, "items") == 3
        assert store.get(connection, "alien").categories == []


def test_items_made_by_two_writers_at_once_are_made_once(database: Database) -> None:
    names = [f"i{number}" for number in range(300)]
    keys: list[dict[str, int]] = []

    def ensure() -> None:
        with database.write() as connection:
            keys.append(store.ensure_items(connection, names))

    threads = [threading.Thread(target=ensure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 4
    assert all(found_keys == keys[0] for found_keys in keys)
    with database.read() as connection:
        assert revision(connection, "items") == 300


def test_an_unknown_item_is_an_error_that_carries_its_id(database: Database) -> None:
    with database.read() as connection, pytest.raises(UnknownItem) as unknown:
        store.get(connection, "nothing")
    assert unknown.value.item_id == "nothing"
    with database.write() as connection, pytest.raises(UnknownItem):
        store.patch(connection, "nothing", {"title": "x"})


TITLES = {
    "dune": "Dune: Part Two",
    "amelie": "Le Fabuleux Destin d'Amélie Poulain",
    "decomposed": "Ame\u0301lie again",
    "brother": "Брат (1997)",
    "street": "Hauptstraße",
    "istanbul": "İstanbul",
    "percent": "100% Wolf_Man \\ 2",
    "kanji": "千と千尋の神隠し",
}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("dune", ["dune"]),
        ("DUNE: part", ["dune"]),
        ("AMÉLIE", ["amelie", "decomposed"]),
        ("БРАТ", ["brother"]),
        ("STRASSE", ["street"]),
        ("strasse", ["street"]),
        ("İSTANBUL", ["istanbul"]),
        ("%", ["percent"]),
        ("_", ["percent"]),
        ("\\", ["percent"]),
        ("千尋", ["kanji"]),
        ("nothing", []),
    ],
)
def test_titles_are_found_whatever_the_case_and_the_script(
    database: Database, wanted: str, expected: list[str]
) -> None:
    write(database, **{item_id: {"title": title} for item_id, title in TITLES.items()}, untitled={})
    assert found(database, title=wanted) == expected


def test_a_changed_title_is_found_and_the_old_one_is_not(database: Database) -> None:
    write(database, dune={"title": "Dune"})
    write(database, dune={"title": "Arrakis"})
    assert (found(database, title="dune"), found(database, title="arrakis")) == ([], ["dune"])


def test_items_of_a_category_are_found_by_the_whole_name(database: Database) -> None:
    write(
        database,
        dune={"categories": ["Sci-Fi", "Drama"]},
        heat={"categories": ["Drama"]},
        odd={"categories": ['a"b', "Sci"]},
        none={},
    )
    assert found(database, category="Drama") == ["dune", "heat"]
    assert found(database, category="Sci") == ["odd"]
    assert found(database, category='a"b') == ["odd"]
    assert found(database, category="") == []


def test_catalog_changes_are_the_items_changed_and_deleted_since(database: Database) -> None:
    write(database, dune=DUNE, heat={}, alien={"hidden": True})
    with database.write() as connection:
        store.remove(connection, heat := store.key_of(connection, "heat"))
    write(database, dune={"title": "Dune"})
    with database.read() as connection:
        everything = store.catalog_changes(connection, 0)
        keys = [store.key_of(connection, name) for name in ("dune", "alien")]
        assert sorted(everything.changed) == [(keys[0], DUNE["categories"], False), (keys[1], [], True)]
        assert (everything.deleted, everything.revision) == ([heat], 5)
        latest, nothing = store.catalog_changes(connection, 4), store.catalog_changes(connection, 5)
        assert ([item.item_key for item in latest.changed], latest.deleted) == (keys[:1], [])
        assert (list(nothing.changed), nothing.deleted) == ([], [])


def test_items_are_described_as_far_as_they_are_there(database: Database) -> None:
    write(database, dune=DUNE, heat={})
    with database.read() as connection:
        dune, heat = (store.key_of(connection, name) for name in ("dune", "heat"))
        told = store.describe(connection, [dune, heat, 99])
    assert told == {dune: (DUNE["title"], DUNE["categories"]), heat: (None, [])}


def test_the_metadata_of_many_items_at_once(database: Database) -> None:
    many = {f"i{number}": {"title": f"Title {number}"} for number in range(10_000)}
    assert write(database, **many) == (10_000, 0, 0, 10_000)
    assert write(database, **many) == (0, 0, 10_000, 10_000)
