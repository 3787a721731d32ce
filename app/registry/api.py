"""Model versions over HTTP: list, show, activate, roll back and delete."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request

from app.db.engine import DatabaseDep
from app.http.openapi import declared
from app.registry import versions
from app.registry.schemas import ModelDetail, ModelList

router = APIRouter(prefix="/models", tags=["models"])


def _versions_dir(request: Request) -> FilePath:
    folder: FilePath = request.app.state.settings.versions_dir
    return folder


VersionsDir = Annotated[FilePath, Depends(_versions_dir)]
VersionNumber = Annotated[int, Path(description="Number of the version.", ge=1, le=2**31 - 1, examples=[7])]
Limit = Annotated[int, Query(description="Versions per page.", ge=1, le=100)]
Cursor = Annotated[
    str | None,
    Query(description="`next_cursor` of the previous page.", pattern=r"^[0-9]{1,9}$", examples=["7"]),
]


@router.get("", response_model_exclude_unset=True, responses=declared(HTTPStatus.UNPROCESSABLE_ENTITY))
def list_models(database: DatabaseDep, limit: Limit = 20, cursor: Cursor = None) -> ModelList:
    """Published versions, newest first."""
    with database.read() as connection:
        rows = versions.history(connection, limit=limit + 1, before=int(cursor) if cursor else None)
    return ModelList.of(rows, limit)


@router.get("/active", response_model_exclude_unset=True, responses=declared(HTTPStatus.NOT_FOUND))
def get_active_model(database: DatabaseDep) -> ModelDetail:
    """The active version; status 404 before the first one is published.

    If a process finds its files damaged, it serves another version: `/v1/status` says which, and why.
    """
    with database.read() as connection:
        row = versions.get_active(connection)
    return ModelDetail.of(row)


@router.get(
    "/{version}",
    response_model_exclude_unset=True,
    responses=declared(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def get_model(database: DatabaseDep, version: VersionNumber) -> ModelDetail:
    """One version, with metrics and learning curve."""
    with database.read() as connection:
        row = versions.get(connection, version)
    return ModelDetail.of(row)


@router.post(
    "/{version}/activate",
    response_model_exclude_unset=True,
    responses=declared(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def activate_model(database: DatabaseDep, versions_dir: VersionsDir, version: VersionNumber) -> ModelDetail:
    """Make this version the active one, for example to roll back; every process switches to it within two seconds.

    Its files are checked first: a damaged version is refused and nothing changes. It stays active until a later run
    publishes a version: to prevent that, start the trainer with `PALATE_RETRAIN_ENABLED=false` and request no runs.
    """
    return ModelDetail.of(versions.activate(database, versions_dir, version))


@router.delete(
    "/{version}",
    status_code=HTTPStatus.NO_CONTENT,
    responses=declared(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def delete_model(database: DatabaseDep, versions_dir: VersionsDir, version: VersionNumber) -> None:
    """Delete a version and its files; the active one cannot be deleted."""
    versions.remove(database, versions_dir, version)
