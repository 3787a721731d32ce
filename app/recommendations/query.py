"""Query parameters declared by a model, read once for each query string that clients send again and again.

FastAPI reads them anew for every request, which takes longer than handing out a list that is kept.
"""

from __future__ import annotations

from typing import Annotated, Any, get_origin

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from app.recommendations.schemas import RecommendationsQuery, Wish

MAX_KNOWN = 1_000
MAX_KNOWN_BYTES = 1_000
"""Query strings that are remembered: so many, and none that is longer."""

_known: dict[bytes, Wish] = {}


def known_wish(query_string: bytes) -> Wish | None:
    """What a query string asks for, if it has been read before."""
    return _known.get(query_string)


async def wish_of(request: Request) -> Wish:
    """What the query asks for; raises RequestValidationError, which names each wrong parameter."""
    query: bytes = request.scope["query_string"]
    wish = known_wish(query)
    if wish is None:
        wish = _read(request).wish()
        if len(query) <= MAX_KNOWN_BYTES:
            if len(_known) >= MAX_KNOWN:
                _known.clear()
            _known[query] = wish
    return wish


def _read(request: Request) -> RecommendationsQuery:
    given: dict[str, Any] = {}
    for name, field in RecommendationsQuery.model_fields.items():
        if values := request.query_params.getlist(name):
            given[name] = values if get_origin(field.annotation) is list else values[-1]
    try:
        return RecommendationsQuery.model_validate(given)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
        raise RequestValidationError([{**error, "loc": ("query", *error["loc"])} for error in errors]) from None


def query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """The model's fields as OpenAPI parameters."""
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema["description"],
            "schema": {key: value for key, value in schema.items() if key != "description"},
        }
        for name, schema in model.model_json_schema()["properties"].items()
    ]


WishDep = Annotated[Wish, Depends(wish_of)]
