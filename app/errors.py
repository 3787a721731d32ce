"""The kinds of service error, the one status table, and the one problem+json body (RFC 9457)."""

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
    errors: list[FieldError] = Field(default_factory=list, description="For bad input: each field that is wrong.")


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
    return Problem(type="about:blank", title=status.phrase, status=status.value, detail=detail, errors=errors or [])


def answer_problems(app: FastAPI) -> None:
    """Every error leaves as problem+json: ours, bad input, unknown paths, a database that is away, and bugs."""
    app.add_exception_handler(ServiceError, _answer_service_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid_request)
    app.add_exception_handler(StarletteHTTPException, _answer_http_exception)
    app.add_exception_handler(DBAPIError, _answer_database_error)
    app.add_exception_handler(PoolTimeout, _answer_database_away)
    app.add_exception_handler(Exception, _answer_bug)


def respond(status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """The problem as a response, for what answers before any route does."""
    return _respond(problem(status, detail), headers)


def _respond(answer: Problem, headers: Mapping[str, str] | None = None) -> Response:
    return Response(answer.model_dump_json(), answer.status, headers, media_type=PROBLEM_JSON)


def _answer_service_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    status = status_of(error)
    headers = {"Retry-After": "1"} if status is HTTPStatus.SERVICE_UNAVAILABLE else None
    return _respond(problem(status, str(error), getattr(error, "errors", None)), headers)


def _answer_invalid_request(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _respond_bad_input([_field_error(each) for each in error.errors()])


def _respond_bad_input(errors: list[FieldError]) -> Response:
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return _respond(problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{first.field}: {first.message}{more}", errors))


def _field_error(found: Mapping[str, Any]) -> FieldError:
    if found["type"] == "json_invalid":
        _, position = found["loc"]
        return FieldError(field="body", message=f"is not JSON: {found['ctx']['error']} at character {position}")
    return FieldError(field=field_path(found["loc"]), message=_plain(found["msg"]))


def _plain(message: str) -> str:
    """Pydantic's words, without the kind of exception that our own checks raise."""
    return message.removeprefix("Value error, ")


def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    status = HTTPStatus(error.status_code)
    if status is HTTPStatus.BAD_REQUEST:  # the framework's word for a body that it cannot read
        return _respond_bad_input([FieldError(field="body", message=_why_unreadable(error.__cause__))])
    detail = str(error.detail)
    if detail == status.phrase:
        detail = f"{request.method} {request.url.path}: {status.description or status.phrase}"
    return _respond(problem(status, detail), error.headers)


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
    log.warning("the database did not answer: %s", error)
    detail = "the database cannot be reached right now; nothing was stored"
    return _respond(problem(HTTPStatus.SERVICE_UNAVAILABLE, detail), {"Retry-After": "1"})


def _answer_bug(request: Request, _error: Exception) -> Response:
    # Starlette hands the exception on to the server, which logs the traceback.
    detail = "this is a fault of the service, not of the request; it has been logged"
    request_id = request.scope.get("palate.request_id")  # this answer is made outside of what adds it to all others
    headers = {"X-Request-ID": request_id} if request_id else None
    return _respond(problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail), headers)


def field_path(location: Sequence[int | str]) -> str:
    """("body", "ratings", 17, "value") as `ratings[17].value`; the body itself as `body`."""
    path = ""
    for part in location[1:]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or str(location[0])
