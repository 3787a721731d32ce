"""`Idempotency-Key`: a POST that is sent again because its answer was lost does nothing again, and gets that answer.

What was answered is a row, written in the transaction of what it answers: they are stored together or not at all.
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

KEPT_FOR = timedelta(days=1)

Answer = TypeVar("Answer", bound=BaseModel)


class KeptAnswer(Base):
    """What a request with an Idempotency-Key was answered."""

    __tablename__ = "kept_answers"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 of caller, route and Idempotency-Key."""
    request: Mapped[str] = mapped_column(String(64))
    """SHA-256 of query and body."""
    answer: Mapped[str | None] = mapped_column(Text)
    """JSON; null only within the transaction that makes it."""
    expires_at: Mapped[datetime] = mapped_column(UtcTime, index=True)


class IdempotencyKeyReused(Conflict):
    def __init__(self) -> None:
        super().__init__("this Idempotency-Key came with another body before; a new request needs a new one")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request that may be a repetition: `id` says of what, `request` what it asks for. No id: it never is one."""

    id: str | None = None
    request: str = ""

    def once(self, connection: Connection, now: datetime, kind: type[Answer], create: Callable[[], Answer]) -> Answer:
        """What `create` answers, or answered to the same request before; raises IdempotencyKeyReused.

        Call it in the transaction in which `create` creates. One that repeats a request still under way waits here.
        """
        if self.id is None:
            return create()
        connection.execute(delete(KeptAnswer).where(KeptAnswer.expires_at <= now))
        if self._is_first(connection, self.id, now):
            answer = create()
            told = answer.model_dump_json(by_alias=True, exclude_unset=True)
            keep = update(KeptAnswer).where(KeptAnswer.id == self.id).values(answer=told)
            connection.execute(keep)
            return answer
        kept = connection.execute(select(KeptAnswer.request, KeptAnswer.answer).where(KeptAnswer.id == self.id)).one()
        if kept.request != self.request:
            raise IdempotencyKeyReused
        return kind.model_validate_json(kept.answer)

    def _is_first(self, connection: Connection, attempt_id: str, now: datetime) -> bool:
        insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        row = {"id": attempt_id, "request": self.request, "expires_at": now + KEPT_FOR}
        statement = insert(KeptAnswer).values(row).on_conflict_do_nothing().returning(KeptAnswer.id)
        return connection.execute(statement).first() is not None


async def _attempt_of(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            description="Any text of your own, such as a UUID, the same for each repetition of one request: it is "
            "carried out once, and for a day each repetition gets the answer of the first. 409 with another body.",
            examples=["8e03978e-40d5-43e8-bc93-6894a57f9324"],
        ),
    ] = None,
) -> Attempt:
    if idempotency_key is None:
        return Attempt()
    caller = getattr(request.scope.get("api_key"), "id", None)
    whose = f"{caller}\n{request.method} {request.url.path}\n{idempotency_key}"
    asked = request.url.query.encode() + b"\n" + await request.body()
    return Attempt(hashlib.sha256(whose.encode()).hexdigest(), hashlib.sha256(asked).hexdigest())


AttemptDep = Annotated[Attempt, Depends(_attempt_of)]
