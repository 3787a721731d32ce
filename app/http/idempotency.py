"""`Idempotency-Key`: a POST that is repeated because its response was lost does nothing again and gets that response.

The response is a row, written in the transaction of what it reports: both are stored or neither is.
See draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Request
from pydantic import BaseModel
from sqlalchemy import Connection, String, Text, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables import Base, UtcTime
from app.errors import Conflict

LIFETIME = timedelta(days=1)

Body = TypeVar("Body", bound=BaseModel)


class IdempotentResponse(Base):
    """The response to a request with an Idempotency-Key."""

    __tablename__ = "idempotent_responses"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 of caller, route and Idempotency-Key."""
    request_digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of query and body."""
    body: Mapped[str | None] = mapped_column(Text)
    """JSON; null only within the transaction that creates it."""
    expires_at: Mapped[datetime] = mapped_column(UtcTime, index=True)


class IdempotencyKeyReused(Conflict):
    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used with another body; a new request needs a new key")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request that may be a repetition; it never is one without an `id`."""

    id: str | None = None
    request_digest: str = ""

    def once(self, connection: Connection, now: datetime, kind: type[Body], create: Callable[[], Body]) -> Body:
        """The result of `create`, or its stored result for the same request; raises IdempotencyKeyReused.

        Call it in the transaction in which `create` writes. A repetition of a request still in progress waits here.
        """
        if self.id is None:
            return create()
        row = IdempotentResponse
        connection.execute(delete(row).where(row.expires_at <= now))
        if self._is_first(connection, self.id, now):
            created = create()
            body = created.model_dump_json(by_alias=True, exclude_unset=True)
            connection.execute(update(row).where(row.id == self.id).values(body=body))
            return created
        stored = connection.execute(select(row.request_digest, row.body).where(row.id == self.id)).one()
        if stored.request_digest != self.request_digest:
            raise IdempotencyKeyReused
        return kind.model_validate_json(stored.body)

    def _is_first(self, connection: Connection, attempt_id: str, now: datetime) -> bool:
        insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        row = {"id": attempt_id, "request_digest": self.request_digest, "expires_at": now + LIFETIME}
        statement = insert(IdempotentResponse).values(row).on_conflict_do_nothing().returning(IdempotentResponse.id)
        return connection.execute(statement).first() is not None


async def _attempt_of(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            description=(
                "A unique text, such as a UUID, to be repeated with every retry of the request. The request runs "
                "once; for a day, every retry gets the first response. The same key with another body returns 409."
            ),
            examples=["8e03978e-40d5-43e8-bc93-6894a57f9324"],
        ),
    ] = None,
) -> Attempt:
    if idempotency_key is None:
        return Attempt()
    caller = getattr(request.scope.get("api_key"), "id", None)
    identity = f"{caller}\n{request.method} {request.url.path}\n{idempotency_key}"
    content = request.url.query.encode() + b"\n" + await request.body()
    return Attempt(hashlib.sha256(identity.encode()).hexdigest(), hashlib.sha256(content).hexdigest())


AttemptDep = Annotated[Attempt, Depends(_attempt_of)]
