"""The catalog in memory follows every change of the items, at the cost of the change."""

import json
import random
import threading
from typing import Any

import numpy as np
import pytest

from app.db.engine import Database
from app.db.ids import read_ids
from app.items import store as items
from app.items.store import catalog_changes as read_changes
from app.ratings.erasure import erase_item
from app.recommendations.catalog import Catalog, CatalogView
from app.registry.artifacts import look_up, rows_by_key

N = 2_000


def put(database: Database, changes: dict[str, dict[str, object]]) -> None:
    with database.write() as connection:
        items.write_many(connection, changes)


@pytest.fixture
def catalog(database: Database) -> Catalog:
    """Of a model that knows the first N items."""
    put(database, {f"i{n}": {"title": f"T{n}", "categories": [f"c{n % 7}", "all"]} for n in range(N)})
    with database.read() as connection:
        keys = read_ids(connection, "item").keys
    by_key = rows_by_key(keys)
    return Catalog(keys, lambda rows: [f"i{row}" for row in rows], lambda given: look_up(by_key, given))


def view(database: Database, catalog: Catalog) -> CatalogView:
    with database.read() as connection:
        return catalog.view(connection)


def rebuilt(database: Database, catalog: Catalog) -> CatalogView:
    return view(database, Catalog(catalog._item_keys, catalog._ids_of, catalog._item_rows_of))


def contents(view: CatalogView) -> tuple[object, ...]:
    rows = {name: found.tolist() for name, found in view.rows_by_category.items()}
    visible = None if view.visible is None else view.visible.rows().tolist()
    return view.is_hidden.tolist(), visible, rows, view.revision


def titles(database: Database, view: CatalogView) -> list[str]:
    with database.read() as connection:
        jsons = view.item_jsons(np.arange(N, dtype=np.int32), lambda: connection)
    return [json.loads(text + "}")["title"] for text in jsons]


def test_items_that_occur_many_times_are_read_once(database: Database, catalog: Catalog) -> None:
    """Explanations of long lists named each rating for each item: more parameters than PostgreSQL takes."""
    current = view(database, catalog)
    with database.read() as connection:
        jsons = current.item_jsons(np.tile(np.arange(300, dtype=np.int32), 1_000), lambda: connection)
    assert [json.loads(text + "}")["title"] for text in jsons[-300:]] == [f"T{n}" for n in range(300)]


def test_more_items_can_be_described_than_a_statement_has_parameters(database: Database) -> None:
    put(database, {"first": {"title": "First"}})
    with database.read() as connection:
        [key] = read_ids(connection, "item").keys.tolist()
        assert items.describe(connection, [*range(-300_000, 0), key]) == {key: ("First", [])}


def test_a_view_brought_up_to_date_is_the_same_as_one_built_anew(database: Database, catalog: Catalog) -> None:
    dice = random.Random(3)
    for _ in range(15):
        view(database, catalog)
        changes: dict[str, dict[str, object]] = {
            f"i{dice.randrange(N + 20)}": {
                "title": str(dice.random()),
                "categories": dice.sample(["c1", "c2", "all", "new", "rare"], dice.randrange(4)),
                "hidden": dice.random() < 0.3,
            }
            for _ in range(dice.randrange(1, 60))
        }
        put(database, changes)
        with database.write() as connection:
            gone = f"i{dice.randrange(N)}"
            if items.exists(connection, gone):
                erase_item(connection, gone)
        assert contents(view(database, catalog)) == contents(rebuilt(database, catalog))


def test_a_change_copies_only_what_it_touches(database: Database, catalog: Catalog) -> None:
    before = view(database, catalog)
    put(database, {"i3": {"title": "New", "categories": ["c3", "fresh"]}})
    after = view(database, catalog)
    assert after.rows_by_category["c1"] is before.rows_by_category["c1"]
    assert after.rows_by_category["fresh"].tolist() == [3]
    assert 3 not in after.rows_by_category["all"]
    assert 3 in before.rows_by_category["all"]


def test_the_json_of_an_item_is_read_once_and_again_after_a_change(
    database: Database, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.read() as connection:
        keys = read_ids(connection, "item").keys
    before = view(database, catalog)
    assert titles(database, before) == [f"T{n}" for n in range(N)]
    put(database, {"i3": {"title": "New"}})
    read_keys: list[int] = []
    read = items.describe

    def noted(connection: Any, item_keys: Any) -> Any:
        read_keys.extend(item_keys)
        return read(connection, item_keys)

    monkeypatch.setattr(items, "describe", noted)
    assert titles(database, view(database, catalog))[3] == "New"
    assert read_keys == [keys[3]]
    assert titles(database, before)[3] == "T3"


def test_an_item_that_the_model_does_not_know_copies_nothing(database: Database, catalog: Catalog) -> None:
    before = view(database, catalog)
    put(database, {"unknown": {}})
    after = view(database, catalog)
    assert after.revision == before.revision + 1
    assert after.rows_by_category is before.rows_by_category
    assert after.is_hidden is before.is_hidden


def test_only_one_of_many_concurrent_requests_reads_the_changes(
    database: Database, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    view(database, catalog)
    put(database, {"i1": {"title": "New"}})
    n_requests, reads = 6, []
    all_there = threading.Barrier(n_requests)

    def read_slowly(connection, since):
        reads.append(since)
        threading.Event().wait(0.3)
        return read_changes(connection, since)

    monkeypatch.setattr(items, "catalog_changes", read_slowly)

    def request() -> None:
        all_there.wait()
        view(database, catalog)

    threads = [threading.Thread(target=request) for _ in range(n_requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1


def test_rows_in_categories_are_those_of_any_of_them(database: Database, catalog: Catalog) -> None:
    now = view(database, catalog)
    assert now.rows_in(["c0", "c1", "unheard of"]).tolist() == [row for row in range(N) if row % 7 in (0, 1)]
    assert now.rows_in(["unheard of"]).dtype == np.int32
