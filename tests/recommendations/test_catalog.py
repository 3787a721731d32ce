"""The catalogue in memory follows every change of the items, at the cost of the change."""

import json
import random
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from app.db.engine import Database
from app.db.ids import read_ids
from app.items import store as items
from app.items.store import catalogue as read_changes
from app.ratings.erasure import erase_item
from app.recommendations.catalog import Catalogue, CatalogueView
from app.registry.artifacts import look_up, rows_by_key

N = 2_000


def put(database: Database, changes: dict[str, dict[str, object]]) -> None:
    with database.write() as connection:
        items.write_many(connection, changes)


@pytest.fixture
def catalogue(database: Database) -> Catalogue:
    """Of a model that knows the first N items."""
    put(database, {f"i{n}": {"title": f"T{n}", "categories": [f"c{n % 7}", "all"]} for n in range(N)})
    with database.read() as connection:
        keys = read_ids(connection, "item").keys
    by_key = rows_by_key(keys)
    return Catalogue(N, lambda given: look_up(by_key, given))


def view(database: Database, catalogue: Catalogue) -> CatalogueView:
    with database.read() as connection:
        return catalogue.view(connection)


def rebuilt(database: Database, catalogue: Catalogue) -> CatalogueView:
    return view(database, Catalogue(N, catalogue._item_rows_of))


def contents(view: CatalogueView) -> tuple[object, ...]:
    rows = {name: found.tolist() for name, found in view.rows_by_category.items()}
    visible = None if view.visible is None else view.visible.rows().tolist()
    return view.is_hidden.tolist(), visible, rows, view.revision


def titles(database: Database, view: CatalogueView, keys: npt.NDArray[np.int64]) -> list[str]:
    rows = np.arange(N, dtype=np.int32)
    with database.read() as connection:
        texts = view.texts(lambda: connection, rows, keys, lambda unknown: [f"i{row}" for row in unknown])
    return [json.loads(text + "}")["title"] for text in texts]


def test_items_that_are_named_again_and_again_are_asked_for_once(database: Database, catalogue: Catalogue) -> None:
    """Explanations of long lists named each rating for each item: more parameters than PostgreSQL takes."""
    current = view(database, catalogue)
    with database.read() as connection:
        keys = read_ids(connection, "item").keys
        rows = np.tile(np.arange(300, dtype=np.int32), 1_000)
        texts = current.texts(lambda: connection, rows, keys, lambda rows: [f"i{row}" for row in rows])
    assert [json.loads(text + "}")["title"] for text in texts[-300:]] == [f"T{n}" for n in range(300)]


def test_as_many_items_are_described_as_are_asked_for(database: Database) -> None:
    put(database, {"first": {"title": "First"}})
    with database.read() as connection:
        [key] = read_ids(connection, "item").keys.tolist()
        assert items.describe(connection, [*range(-300_000, 0), key]) == {key: ("First", [])}


def test_a_view_brought_up_to_date_is_the_same_as_one_built_anew(database: Database, catalogue: Catalogue) -> None:
    dice = random.Random(3)
    for _ in range(15):
        view(database, catalogue)
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
        assert contents(view(database, catalogue)) == contents(rebuilt(database, catalogue))


def test_a_change_copies_only_what_it_touches(database: Database, catalogue: Catalogue) -> None:
    before = view(database, catalogue)
    put(database, {"i3": {"title": "New", "categories": ["c3", "fresh"]}})
    after = view(database, catalogue)
    assert after.rows_by_category["c1"] is before.rows_by_category["c1"]
    assert after.rows_by_category["fresh"].tolist() == [3]
    assert 3 not in after.rows_by_category["all"]
    assert 3 in before.rows_by_category["all"]


def test_what_is_told_of_an_item_is_read_once_and_again_when_it_has_changed(
    database: Database, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.read() as connection:
        keys = read_ids(connection, "item").keys
    before = view(database, catalogue)
    assert titles(database, before, keys) == [f"T{n}" for n in range(N)]
    put(database, {"i3": {"title": "New"}})
    asked: list[int] = []
    read = items.describe

    def noted(connection: Any, item_keys: Any) -> Any:
        asked.extend(item_keys)
        return read(connection, item_keys)

    monkeypatch.setattr(items, "describe", noted)
    assert titles(database, view(database, catalogue), keys)[3] == "New"
    assert asked == [keys[3]]
    assert titles(database, before, keys)[3] == "T3"


def test_an_item_that_the_model_does_not_know_copies_nothing(database: Database, catalogue: Catalogue) -> None:
    before = view(database, catalogue)
    put(database, {"unknown": {}})
    after = view(database, catalogue)
    assert after.revision == before.revision + 1
    assert after.rows_by_category is before.rows_by_category
    assert after.is_hidden is before.is_hidden


def test_of_many_requests_that_find_the_view_outdated_one_reads_the_changes(
    database: Database, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    view(database, catalogue)
    put(database, {"i1": {"title": "New"}})
    n_requests, reads = 6, []
    all_there = threading.Barrier(n_requests)

    def read_slowly(connection, since):
        reads.append(since)
        threading.Event().wait(0.3)
        return read_changes(connection, since)

    monkeypatch.setattr(items, "catalogue", read_slowly)

    def request() -> None:
        all_there.wait()
        view(database, catalogue)

    threads = [threading.Thread(target=request) for _ in range(n_requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1


def test_rows_in_categories_are_those_of_any_of_them(database: Database, catalogue: Catalogue) -> None:
    now = view(database, catalogue)
    assert now.rows_in(["c0", "c1", "unheard of"]).tolist() == [row for row in range(N) if row % 7 in (0, 1)]
    assert now.rows_in(["unheard of"]).dtype == np.int32
