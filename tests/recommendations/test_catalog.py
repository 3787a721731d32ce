"""The catalog in memory follows every change of the items, at the cost of the change."""

import json
import random
import threading
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from app.db.engine import Database
from app.db.ids import read_ids
from app.engine.data.id_search import rows_by_key
from app.engine.data.ratings import Vocabulary
from app.items import store as items
from app.items.store import catalog_changes as read_changes
from app.ratings.erasure import erase_item
from app.recommendations.catalog import Catalog, CatalogView
from app.recommendations.schemas import PopularItemsOut, RecommendationsOut, SimilarItemsOut
from tests.recommendations.conftest import Planted

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
    return Catalog(keys, Vocabulary.of(f"i{row}" for row in range(N)), rows_by_key(keys))


def view(database: Database, catalog: Catalog) -> CatalogView:
    with database.read() as connection:
        return catalog.view(connection)


def rebuilt(database: Database, catalog: Catalog) -> CatalogView:
    return view(database, Catalog(catalog._item_keys, catalog._item_ids, catalog._item_row_of_key))


def contents(view: CatalogView) -> tuple[object, ...]:
    rows = {name: found.tolist() for name, found in view.rows_by_category.items()}
    visible = None if view.visible is None else view.visible.rows().tolist()
    return view.is_hidden.tolist(), visible, rows, view.revision


def titles(database: Database, view: CatalogView) -> list[str]:
    with database.read() as connection:
        jsons = view.items_json(np.arange(N, dtype=np.int32), connection, {})
    return [json.loads(text)["title"] for text in jsons]


def test_items_that_occur_many_times_are_read_once(database: Database, catalog: Catalog) -> None:
    """Explanations of long lists named each rating for each item: more parameters than PostgreSQL takes."""
    current = view(database, catalog)
    with database.read() as connection:
        jsons = current.items_json(np.tile(np.arange(300, dtype=np.int32), 1_000), connection, {})
    assert [json.loads(text)["title"] for text in jsons[-300:]] == [f"T{n}" for n in range(300)]


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


LISTS = {
    "/v1/users/ann/recommendations": RecommendationsOut,
    "/v1/users/ann/recommendations?offset=100000": RecommendationsOut,
    "/v1/users/astronaut-1/recommendations?explain=true&n=2": RecommendationsOut,
    "/v1/users/astronaut-1/recommendations?rank_by=lower&diversity=0.3&level=0.9": RecommendationsOut,
    "/v1/items/popular": PopularItemsOut,
    "/v1/items/space-1/similar": SimilarItemsOut,
}


@pytest.mark.parametrize(("path", "schema"), LISTS.items())
def test_a_list_is_what_its_schema_serialises(planted: Planted, path: str, schema: type[BaseModel]) -> None:
    client, train = planted
    strange = {"title": 'Ä"\\%s{} 映画', "categories": ["space", 'a"b', "%d"]}
    client.patch("/v1/items/space-0", json=strange).raise_for_status()
    client.put("/v1/items/love-2", json={"title": None}).raise_for_status()
    for _ in range(2):
        body = client.get(path).raise_for_status().content
        assert schema.model_validate_json(body, strict=True).model_dump_json(exclude_unset=True).encode() == body
        train()


def test_the_columns_of_each_item_follow_its_json(database: Database, catalog: Catalog) -> None:
    current, rows = view(database, catalog), np.array([3, 1], np.int32)
    columns = {"value": [4.5, -0.0001], "n": [3, 12], "explanation": ["null", '{"b":[]}']}
    with database.read() as connection:
        body = current.list_json({"version": None, "source": "ü"}, rows, connection, columns)
        empty = current.list_json({"version": None, "source": "ü"}, rows[:0], connection, {"value": []})
    third, first = catalog._item_ids.ids_of(rows)
    assert body.decode() == (
        '{"version":null,"source":"ü","items":['
        f'{{"item_id":"{third}","title":"T3","categories":["c3","all"],"value":4.5,"n":3,"explanation":null}},'
        f'{{"item_id":"{first}","title":"T1","categories":["c1","all"],"value":-0.0001,"n":12,"explanation":{{"b":[]}}}}]}}'
    )
    assert empty == '{"version":null,"source":"ü","items":[]}'.encode()


def test_numbers_are_written_as_python_reads_them(database: Database, catalog: Catalog) -> None:
    numbers, rows = [0.0, -0.0001, 3.0, 4.3517, 1e-07, 1e22, 0.1 + 0.2], np.arange(7, dtype=np.int32)
    with database.read() as connection:
        items = view(database, catalog).items_json(rows, connection, {"value": numbers})
    assert [json.loads(item)["value"] for item in items] == numbers
