"""The endpoints of API keys: create, list, revoke."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from app.api_keys import keys
from app.api_keys.schemas import KeyList, KeyOut, NewKeyIn, NewKeyOut
from app.db.engine import DatabaseDep
from app.http.openapi import declared
from app.http.pages import PageCursor, PageLimit

log = logging.getLogger(__name__)

router = APIRouter(prefix="/keys", tags=["keys"])

KeyId = Annotated[int, Path(description="Number of the key.", ge=1, le=2**31 - 1, examples=[3])]


@router.get("", responses=declared(422))
def list_keys(database: DatabaseDep, limit: PageLimit = 20, cursor: PageCursor = None) -> KeyList:
    """List keys with scopes and last use, newest first, including revoked ones."""
    with database.read() as connection:
        rows = keys.history(connection, limit=limit + 1, before=int(cursor) if cursor else None)
    shown = [KeyOut.model_validate(row) for row in rows[:limit]]
    return KeyList(keys=shown, next_cursor=str(shown[-1].id) if len(rows) > limit else None)


@router.post("", status_code=201, responses=declared(409, 422))
def create_key(request: Request, response: Response, database: DatabaseDep, body: NewKeyIn) -> NewKeyOut:
    """Create a key. Only this response contains it. Once the first key exists, every request needs one.

    If the response is lost, repeating the request does not create a second key, because the name is taken: revoke the
    key and create a new one.
    """
    with database.write() as connection:
        made = keys.create(connection, body.name, body.scopes, database.now(connection), body.expires_at)
    request.app.state.keyring.refresh()
    log.info("API key %r (%s) was created by %s", made.row.name, made.row.prefix, _caller(request))
    response.headers["Cache-Control"] = "no-store"
    return NewKeyOut(**made.row._mapping, key=made.token)


@router.delete("/{key_id}", status_code=204, responses=declared(404, 422))
def revoke_key(request: Request, database: DatabaseDep, key_id: KeyId) -> None:
    """Revoke a key permanently; every process refuses it within two seconds."""
    with database.write() as connection:
        row = keys.revoke(connection, key_id, database.now(connection))
    request.app.state.keyring.refresh()
    log.info("API key %r (%s) was revoked by %s", row.name, row.prefix, _caller(request))


def _caller(request: Request) -> str:
    key = request.scope.get("api_key")
    return f"{key.name!r} ({key.prefix})" if key else "a request without a key"
