"""Model versions over HTTP: list, show, activate, roll back and delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request

from app.db.engine import DatabaseDep
from app.http.openapi import declared
from app.http.pages import PageCursor, PageLimit
from app.registry import versions
from app.registry.schemas import ModelDetail, ModelList

router = APIRouter(prefix="/models", tags=["models"])


VersionNumber = Annotated[int, Path(description="Number of the version.", ge=1, le=2**31 - 1, examples=[7])]


@router.get("", response_model_exclude_unset=True, responses=declared(422))
def list_models(database: DatabaseDep, limit: PageLimit = 20, cursor: PageCursor = None) -> ModelList:
    """Published versions, newest first."""
    with database.read() as connection:
        rows = versions.history(connection, limit=limit + 1, before=int(cursor) if cursor else None)
    return ModelList.of(rows, limit)


@router.get("/active", response_model_exclude_unset=True, responses=declared(404))
def get_active_model(database: DatabaseDep) -> ModelDetail:
    """The active version; status 404 before the first one is published.

    If a process finds its files damaged, it serves another version: `/v1/status` says which, and why.
    """
    with database.read() as connection:
        row = versions.get_active(connection)
    return ModelDetail.of(row)


@router.get("/{version}", response_model_exclude_unset=True, responses=declared(404, 422))
def get_model(database: DatabaseDep, version: VersionNumber) -> ModelDetail:
    """One version, with metrics and learning curve."""
    with database.read() as connection:
        row = versions.get(connection, version)
    return ModelDetail.of(row)


@router.post("/{version}/activate", response_model_exclude_unset=True, responses=declared(404, 409, 422))
def activate_model(database: DatabaseDep, request: Request, version: VersionNumber) -> ModelDetail:
    """Make this version the active one, for example to roll back; every process switches to it within two seconds.

    Its files are checked first: a damaged version is refused and nothing changes. It stays active until a later run
    publishes a version: to prevent that, start the trainer with `PALATE_RETRAIN_ENABLED=false` and request no runs.
    """
    return ModelDetail.of(versions.activate(database, request.app.state.settings.versions_dir, version))


@router.delete("/{version}", status_code=204, responses=declared(404, 409, 422))
def delete_model(database: DatabaseDep, request: Request, version: VersionNumber) -> None:
    """Delete a version and its files; the active one cannot be deleted."""
    versions.remove(database, request.app.state.settings.versions_dir, version)
