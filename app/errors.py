"""Kinds of service errors, their status codes, and the problem+json body of every error (RFC 9457)."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException as StarletteHTTPException

log = logging.getLogger(__name__)


class FieldError(BaseModel):
    """One invalid field of the input."""

    field: str = Field(description="Path of the field, including positions in lists.", examples=["ratings[17].value"])
    message: str = Field(description="Why it is invalid.", examples=["must be a number from 0.5 to 5"])


class Problem(BaseModel):
    """The body of every error (RFC 9457, application/problem+json)."""

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

    type: str = Field("about:blank", description="Kind of problem; about:blank: the title describes it.")
    title: str = Field(description="The phrase of the HTTP status code.")
    status: int = Field(description="The HTTP status code.")
    detail: str = Field(description="What went wrong, for human readers.")
    errors: list[FieldError] = Field(default_factory=list, description="For bad input: each invalid field.")


class ServiceError(Exception):
    """A request cannot be fulfilled; the message is shown to the caller."""


class NotFound(ServiceError):
    """The requested resource does not exist."""


class Conflict(ServiceError):
    """The resource exists, but its state does not allow the request."""


class BadInput(ServiceError):
    """Well-formed but invalid input; carries each invalid field."""

    def __init__(self, message: str, errors: list[FieldError]) -> None:
        super().__init__(message)
        self.errors = errors

    @classmethod
    def at(cls, field: str, message: str) -> "BadInput":
        """One invalid field."""
        return cls(f"{field}: {message}", [FieldError(field=field, message=message)])


class NotReady(ServiceError):
    """The service cannot answer right now; the client may retry later."""


class Damaged(ServiceError):
    """A stored model version does not match its checksums."""


STATUS: dict[type[ServiceError], HTTPStatus] = {
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    BadInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    Damaged: HTTPStatus.CONFLICT,
}

PROBLEM_JSON = "application/problem+json"


def status_of(error: ServiceError) -> HTTPStatus:
    """The status of the most specific kind in STATUS; an error without one is a bug."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(status: HTTPStatus, detail: str, errors: list[FieldError] | None = None) -> Problem:
    return Problem(type="about:blank", title=status.phrase, status=status.value, detail=detail, errors=errors or [])


def answer_problems(app: FastAPI) -> None:
    """Answer every error as problem+json: ours, invalid input, unknown paths, an unreachable database, and bugs."""
    app.add_exception_handler(ServiceError, _answer_service_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid_request)
    app.add_exception_handler(StarletteHTTPException, _answer_http_exception)
    app.add_exception_handler(DBAPIError, _answer_database_error)
    app.add_exception_handler(PoolTimeout, _answer_database_away)
    app.add_exception_handler(Exception, _answer_bug)


def respond(
    status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None, errors: list[FieldError] | None = None
) -> Response:
    """The problem as a response."""
    return Response(problem(status, detail, errors).model_dump_json(), status, headers, media_type=PROBLEM_JSON)


def _answer_service_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    status = status_of(error)
    headers = {"Retry-After": "1"} if status is HTTPStatus.SERVICE_UNAVAILABLE else None
    return respond(status, str(error), headers, getattr(error, "errors", None))


def _answer_invalid_request(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _respond_bad_input([_field_error(each) for each in error.errors()])


def _respond_bad_input(errors: list[FieldError]) -> Response:
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return respond(HTTPStatus.UNPROCESSABLE_ENTITY, f"{first.field}: {first.message}{more}", None, errors)


def _field_error(error: Mapping[str, Any]) -> FieldError:
    if error["type"] == "json_invalid":
        _, position = error["loc"]
        return FieldError(field="body", message=f"is not JSON: {error['ctx']['error']} at character {position}")
    return FieldError(field=field_path(error["loc"]), message=error["msg"].removeprefix("Value error, "))


def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    status = HTTPStatus(error.status_code)
    if status is HTTPStatus.BAD_REQUEST:  # FastAPI could not read the body
        return _respond_bad_input([FieldError(field="body", message=_why_unreadable(error.__cause__))])
    detail = str(error.detail)
    if detail == status.phrase:
        detail = f"{request.method} {request.url.path}: {status.description or status.phrase}"
    return respond(status, detail, error.headers)


def _why_unreadable(cause: BaseException | None) -> str:
    if isinstance(cause, UnicodeDecodeError):
        return f"is not UTF-8: byte {cause.start} cannot be read"
    if isinstance(cause, RecursionError):
        return "is nested too deeply"
    return "cannot be read"


def _answer_database_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DBAPIError)
    if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
        return _answer_database_away(request, error)
    raise error


def _answer_database_away(_request: Request, error: Exception) -> Response:
    log.warning("the database does not answer: %s", error)
    detail = "the database cannot be reached right now; nothing was stored"
    return respond(HTTPStatus.SERVICE_UNAVAILABLE, detail, {"Retry-After": "1"})


def _answer_bug(request: Request, _error: Exception) -> Response:
    # Starlette re-raises the exception, and the server logs the traceback.
    detail = "internal error of the service, not of the request; it has been logged"
    request_id = request.scope.get("palate.request_id")  # the middleware that sets the header is not involved
    headers = {"X-Request-ID": request_id} if request_id else None
    return respond(HTTPStatus.INTERNAL_SERVER_ERROR, detail, headers)


def field_path(location: Sequence[int | str]) -> str:
    """("body", "ratings", 17, "value") as `ratings[17].value`; the body itself as `body`."""
    path = ""
    for part in location[1:]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or str(location[0])
