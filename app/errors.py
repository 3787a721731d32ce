"""The kinds of service error, the one status table, and the one problem+json body (RFC 9457)."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class FieldError(BaseModel):
    """One thing wrong with the input, and where."""

    field: str = Field(description="Path of the field, positions included.", examples=["ratings[17].value"])
    message: str = Field(description="What is wrong with it.", examples=["must be a number from 0.5 to 5"])


class Problem(BaseModel):
    """Every error of this service (RFC 9457, application/problem+json)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "model version 7 does not exist",
                    "errors": [],
                }
            ]
        }
    )

    type: str = Field("about:blank", description="Kind of problem; about:blank means the title says it all.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status code.")
    detail: str = Field(description="What went wrong, in words for a person.")
    errors: list[FieldError] = Field(
        default_factory=list, description="For bad input: each field that is wrong."
    )


class ServiceError(Exception):
    """Something a caller asked for cannot be done; the message is shown to the caller."""


class NotFound(ServiceError):
    """What the caller named does not exist."""


class Conflict(ServiceError):
    """It exists, but its state forbids what was asked."""


class BadInput(ServiceError):
    """Input that is well-formed JSON but wrong; carries each wrong field."""

    def __init__(self, message: str, errors: list[FieldError]) -> None:
        super().__init__(message)
        self.errors = errors

    @classmethod
    def at(cls, field: str, message: str) -> "BadInput":
        """One wrong field."""
        return cls(f"{field}: {message}", [FieldError(field=field, message=message)])


class NotReady(ServiceError):
    """The service cannot answer this right now; trying again later makes sense."""


class Damaged(ServiceError):
    """A stored model version fails its own checksums."""


STATUS: dict[type[ServiceError], HTTPStatus] = {
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    BadInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    Damaged: HTTPStatus.CONFLICT,
}

PROBLEM_JSON = "application/problem+json"


def status_of(error: ServiceError) -> HTTPStatus:
    """The status of the nearest kind in the table; a kind outside it is a bug."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(status: HTTPStatus, detail: str, errors: list[FieldError] | None = None) -> Problem:
    return Problem(
        type="about:blank", title=status.phrase, status=status.value, detail=detail, errors=errors or []
    )


def declared(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """OpenAPI `responses` entry for errors that an operation can answer with."""
    return {
        status.value: {
            "model": Problem,
            "description": status.phrase,
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
