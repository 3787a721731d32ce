"""The endpoints of API keys: create, list, revoke."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from app.api_keys import keys
from app.api_keys.keyring import Keyring
from app.api_keys.schemas import KeyList, KeyOut, NewKeyIn, NewKeyOut
from app.db.engine import DatabaseDep
from app.http.openapi import declared

log = logging.getLogger(__name__)

router = APIRouter(prefix="/keys", tags=["keys"])

KeyId = Annotated[int, Path(description="Number of the key.", ge=1, le=2**31 - 1, examples=[3])]


async def _keyring_of(request: Request) -> Keyring:
    keyring: Keyring = request.app.state.keyring
    return keyring


KeyringDep = Annotated[Keyring, Depends(_keyring_of)]


@router.get("", responses=declared(HTTPStatus.UNPROCESSABLE_ENTITY))
def list_keys(
    database: DatabaseDep,
    limit: Annotated[int, Query(description="Keys per page.", ge=1, le=100)] = 20,
    cursor: Annotated[
        str | None,
        Query(description="`next_cursor` of the previous page.", pattern=r"^[0-9]{1,9}$", examples=["3"]),
    ] = None,
) -> KeyList:
    """List keys with scopes and last use, newest first, including revoked ones."""
    with database.read() as connection:
        rows = keys.history(connection, limit=limit + 1, before=int(cursor) if cursor else None)
    shown = [KeyOut.of(row) for row in rows[:limit]]
    return KeyList(keys=shown, next_cursor=str(shown[-1].id) if len(rows) > limit else None)


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    responses=declared(HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def create_key(
    request: Request, response: Response, database: DatabaseDep, keyring: KeyringDep, body: NewKeyIn
) -> NewKeyOut:
    """Create a key. Only this response contains it. Once the first key exists, every request needs one.

    If the response is lost, repeating the request does not create a second key, because the name is taken: revoke the
    key and create a new one.
    """
    with database.write() as connection:
        made = keys.create(connection, body.name, body.scopes, database.now(connection), body.expires_at)
    keyring.refresh()
    log.info("API key %r (%s) was created by %s", made.row.name, made.row.prefix, _caller(request))
    response.headers["Cache-Control"] = "no-store"
    return NewKeyOut.of_new(made)


@router.delete(
    "/{key_id}",
    status_code=HTTPStatus.NO_CONTENT,
    responses=declared(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def revoke_key(request: Request, database: DatabaseDep, keyring: KeyringDep, key_id: KeyId) -> None:
    """Revoke a key permanently; every process refuses it within two seconds."""
    with database.write() as connection:
        row = keys.revoke(connection, key_id, database.now(connection))
    keyring.refresh()
    log.info("API key %r (%s) was revoked by %s", row.name, row.prefix, _caller(request))


def _caller(request: Request) -> str:
    key = request.scope.get("api_key")
    return f"{key.name!r} ({key.prefix})" if key else "a request without a key"
