"""The OpenAPI document is what clients are generated from: valid, complete, and the same as the errors really are."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate

from app.main import create_app
from app.settings import Settings

METHODS = {"get", "put", "post", "patch", "delete"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings(trainer="external")).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert method in METHODS
            yield f"{method.upper()} {path}", operation


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    validate(document)


def test_every_operation_has_an_id_of_its_own_one_tag_and_a_description(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    known_tags = {tag["name"] for tag in document["tags"]}
    for name, operation in operations(document):
        assert len(operation["tags"]) == 1, name
        assert operation["tags"][0] in known_tags, name
        assert operation["description"], name


def test_every_error_is_declared_as_a_problem(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        errors = {status: entry for status, entry in operation["responses"].items() if status >= "400"}
        assert {"500", "503"} <= errors.keys(), name
        if "parameters" in operation or "requestBody" in operation:
            assert "422" in errors, name
        for status, entry in errors.items():
            if (name, status) != ("GET /readyz", "503"):
                assert list(entry["content"]) == ["application/problem+json"], (name, status)


def test_every_body_and_every_answer_shows_an_example(document: dict[str, Any]) -> None:
    bare = []
    for name, operation in operations(document):
        contents = {status: answer.get("content", {}) for status, answer in operation["responses"].items()}
        contents["body"] = operation.get("requestBody", {}).get("content", {})
        bare += [
            f"{name} {part} {media_type}"
            for part, content in contents.items()
            for media_type, entry in content.items()
            if not _has_example(document, entry)
        ]
    assert not bare, "\n".join(bare)


def test_an_unknown_path_is_answered_with_the_declared_problem(sqlite_client: httpx.Client) -> None:
    response = sqlite_client.get("/v1/nothing-here")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["title"] == "Not Found"


def _has_example(document: dict[str, Any], entry: dict[str, Any]) -> bool:
    if "example" in entry or "examples" in entry:
        return True
    return _shows(document, entry.get("schema", {}), depth=0)


def _shows(document: dict[str, Any], schema: dict[str, Any], depth: int) -> bool:
    """Whether a schema has an example, or each of its required object fields has one."""
    if "examples" in schema or "const" in schema or "default" in schema or "enum" in schema or depth > 6:
        return True
    if "$ref" in schema:
        return _shows(document, document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], depth + 1)
    if "items" in schema:
        return _shows(document, schema["items"], depth + 1)
    if "anyOf" in schema:
        return any(_shows(document, option, depth + 1) for option in schema["anyOf"])
    properties = schema.get("properties", {})
    if schema.get("type") == "boolean":
        return True
    return bool(properties) and all(_shows(document, each, depth + 1) for each in properties.values())
