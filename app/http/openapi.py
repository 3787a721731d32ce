"""Extends the OpenAPI document that FastAPI derives from the routes by the errors of every operation."""

from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from app.errors import PROBLEM_JSON, FieldError, Problem


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI `responses` entry for the errors of an operation."""
    content = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {int(status): {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def declare_on(operation: dict[str, Any], *statuses: int) -> None:
    """Add them to an operation of the finished document."""
    operation["responses"].update({str(status): entry for status, entry in declared(*statuses).items()})


def declare_problems(app: FastAPI) -> None:
    """Add the schema of problems, and to every operation the errors that all operations share."""

    def amend(document: dict[str, Any]) -> None:
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for schema in (Problem, FieldError):
            schemas[schema.__name__] = schema.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas["Problem"].pop("$defs", None)
        for framework_schema in ("HTTPValidationError", "ValidationError"):
            schemas.pop(framework_schema, None)
        for _, _, operation in operations_of(document):
            declare_on(operation, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE)
            if "parameters" in operation or "requestBody" in operation:
                declare_on(operation, HTTPStatus.UNPROCESSABLE_ENTITY)

    amend_document(app, amend)


def amend_document(app: FastAPI, amend: Callable[[dict[str, Any]], None]) -> None:
    """Have `amend` change the OpenAPI document once, after all earlier amendments."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            amend(make())  # FastAPI caches it as `openapi_schema`
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def operations_of(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and operation of each."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield method.upper(), path, operation
