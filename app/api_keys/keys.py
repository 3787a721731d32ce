"""API keys in the database: create, list, revoke. The key itself is returned once, by `create`."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from app.api_keys.models import NAME_LENGTH, ApiKey
from app.db.paging import newest
from app.errors import BadInput, Conflict, NotFound

KeyScope = Literal["read", "write", "admin"]
"""`admin` includes the others; `read` and `write` do not include each other."""

SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)

KeyRow = Row[Any]
"""The columns of ApiKey."""

_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # no characters that are easily confused
PREFIX_LENGTH = len("plt_") + 8
_SECRET_BYTES = 32


class UnknownKey(NotFound):
    """No active key has this number or name."""

    def __init__(self, key: int | str) -> None:
        super().__init__(f"there is no active API key {key}")
        self.key = key


class NameTaken(Conflict):
    """An active key has this name; revoking it frees the name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"an API key {name!r} already exists: revoke it first, or choose another name")
        self.name = name


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just created; `token` is the key itself, which cannot be looked up later."""

    row: KeyRow
    token: str


def create(
    connection: Connection, name: str, scopes: Collection[KeyScope], now: datetime, expires_at: datetime | None = None
) -> NewKey:
    """Create a key; raises BadInput, NameTaken."""
    _validate(name, scopes, now, expires_at)
    prefix = "plt_" + "".join(secrets.choice(_ALPHABET) for _ in range(PREFIX_LENGTH - len("plt_")))
    token = f"{prefix}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    values = {"name": name, "prefix": prefix, "digest": digest_of(token), "created_at": now, "expires_at": expires_at}
    ordered = [scope for scope in SCOPES if scope in scopes]
    try:
        statement = insert(ApiKey).values(**values, scopes=ordered).returning(*ApiKey.__table__.columns)
        return NewKey(connection.execute(statement).one(), token)
    except IntegrityError as error:
        raise NameTaken(name) from error


def digest_of(token: str) -> str:
    """The stored digest of a key. With 256 random bits it needs neither a salt nor a slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


def is_any(connection: Connection) -> bool:
    """Whether a key exists or ever existed: from then on requests need one."""
    return connection.execute(select(ApiKey.id).limit(1)).first() is not None


def active(connection: Connection) -> list[KeyRow]:
    """The keys that are not revoked, including expired ones."""
    return list(connection.execute(select(ApiKey.__table__).where(ApiKey.revoked_at.is_(None))))


def history(connection: Connection, *, limit: int, before: int | None = None) -> list[KeyRow]:
    """At most `limit` keys, newest first, including revoked ones; only ids below `before`."""
    return newest(connection, select(ApiKey.__table__), ApiKey.id, limit, before)


def revoke(connection: Connection, key: int | str, now: datetime) -> KeyRow:
    """Revoke the active key with this number or name; raises UnknownKey."""
    which = ApiKey.id == key if isinstance(key, int) else ApiKey.name == key
    statement = update(ApiKey).where(which, ApiKey.revoked_at.is_(None)).values(revoked_at=now)
    row = connection.execute(statement.returning(*ApiKey.__table__.columns)).one_or_none()
    if row is None:
        raise UnknownKey(key)
    return row


def record_uses(connection: Connection, key_ids: Collection[int], now: datetime) -> None:
    """Store that these keys were last used now."""
    connection.execute(update(ApiKey).where(ApiKey.id.in_(key_ids)).values(last_used_at=now))


def _validate(name: str, scopes: Collection[KeyScope], now: datetime, expires_at: datetime | None) -> None:
    if not (1 <= len(name) <= NAME_LENGTH and name.isprintable() and name.strip() == name):
        raise BadInput.at("name", f"must have 1 to {NAME_LENGTH} printable characters, without surrounding spaces")
    if not scopes:
        raise BadInput.at("scopes", "must contain at least one scope")
    if expires_at is not None and expires_at <= now:
        raise BadInput.at("expires_at", "must be in the future")
