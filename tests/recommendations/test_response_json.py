"""Answers built from arrays equal what their schemas serialise, to the byte."""

import json

import httpx
import pytest
from pydantic import BaseModel

from app.recommendations.response_json import list_json, numbers_json
from app.recommendations.schemas import PopularItemsOut, RecommendationsOut, SimilarItemsOut
from tests.recommendations.conftest import Train

LISTS = {
    "/v1/users/ann/recommendations": RecommendationsOut,
    "/v1/users/ann/recommendations?offset=100000": RecommendationsOut,
    "/v1/users/astronaut-1/recommendations?explain=true&n=2": RecommendationsOut,
    "/v1/users/astronaut-1/recommendations?rank_by=lower&diversity=0.3&level=0.9": RecommendationsOut,
    "/v1/items/popular": PopularItemsOut,
    "/v1/items/space-1/similar": SimilarItemsOut,
}


@pytest.mark.parametrize(("path", "schema"), LISTS.items())
def test_a_list_is_what_its_schema_serialises(
    planted: tuple[httpx.Client, Train], path: str, schema: type[BaseModel]
) -> None:
    client, train = planted
    strange = {"title": 'Ä"\\%s{} 映画', "categories": ["space", 'a"b', "%d"]}
    client.patch("/v1/items/space-0", json=strange).raise_for_status()
    client.put("/v1/items/love-2", json={"title": None}).raise_for_status()
    for _ in range(2):
        body = client.get(path).raise_for_status().content
        assert schema.model_validate_json(body, strict=True).model_dump_json(exclude_unset=True).encode() == body
        train()


def test_the_columns_of_each_item_follow_its_json() -> None:
    columns = {"value": numbers_json([4.5, -0.0001]), "explanation": ["null", '{"b":[]}']}
    body = list_json({"n": 2}, ['{"a":1', '{"a":2'], **columns)
    assert body == (
        b'{"n":2,"items":[{"a":1,"value":4.5,"explanation":null},{"a":2,"value":-0.0001,"explanation":{"b":[]}}]}'
    )
    empty = '{"version":null,"source":"ü","items":[]}'.encode()
    assert list_json({"version": None, "source": "ü"}, [], value=[]) == empty


def test_numbers_are_written_as_python_writes_them() -> None:
    numbers = [0.0, -0.0001, 3.0, 4.3517, 1e-07, 1e22, 0.1 + 0.2]
    assert [json.loads(text) for text in numbers_json(numbers)] == numbers
    assert numbers_json([3, 12]) == ["3", "12"]
    assert numbers_json([]) == []
