"""Published versions: which exist, which one is active, and how that changes.

Publishing, activating and removing lock the row of the active version first, so they never interleave.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from app.db.engine import Database
from app.db.paging import newest
from app.errors import Conflict, NotFound
from app.registry import artifacts
from app.registry.artifacts import Manifest
from app.registry.models import ActiveModel, ModelVersion

VersionRow = Row[Any]
"""The columns of ModelVersion, and `is_active`."""


class UnknownVersion(NotFound):
    """No version has this number."""

    def __init__(self, version: int) -> None:
        super().__init__(f"model version {version} does not exist")
        self.version = version


class NoActiveVersion(NotFound):
    """Nothing has been published yet."""

    def __init__(self) -> None:
        super().__init__("there is no active model version yet: post ratings, then start a training run")


class ActiveVersion(Conflict):
    """The active version cannot be deleted."""

    def __init__(self, version: int) -> None:
        super().__init__(f"model version {version} is active; activate another one before deleting it")
        self.version = version


def publish(
    connection: Connection, *, run_id: int | None, folder: str, manifest: Manifest, created_at: datetime
) -> int:
    """List a complete folder as the newest version and make it the active one; returns its number.

    Call it in the transaction that verifies that the run still belongs to the caller: then all of it happens or
    nothing.
    """
    version: int = connection.execute(
        insert(ModelVersion)
        .values(
            run_id=run_id,
            folder=folder,
            digest=manifest["model_digest"],
            created_at=created_at,
            trained_through=manifest["trained_through"],
            manifest=manifest,
        )
        .returning(ModelVersion.version)
    ).scalar_one()
    _point_at(connection, version, created_at)
    return version


def activate(database: Database, versions_dir: Path, version: int) -> VersionRow:
    """Make an existing version the active one, after checking its files, until a later run publishes one.

    Raises UnknownVersion or DamagedVersion; then nothing changes.
    """
    with database.read() as connection:
        row = get(connection, version)
    artifacts.verify(versions_dir / row.folder, row.manifest)
    with database.write() as connection:
        _lock_pointer(connection)
        get(connection, version)  # it may have been deleted while its files were read
        _point_at(connection, version, database.now(connection))
        return get(connection, version)


def get(connection: Connection, version: int) -> VersionRow:
    """Raises UnknownVersion."""
    row = connection.execute(_select_versions().where(ModelVersion.version == version)).one_or_none()
    if row is None:
        raise UnknownVersion(version)
    return row


def get_active(connection: Connection) -> VersionRow:
    """Raises NoActiveVersion."""
    if (row := find_active(connection)) is None:
        raise NoActiveVersion
    return row


def find_active(connection: Connection) -> VersionRow | None:
    return connection.execute(_select_versions().where(ActiveModel.version.is_not(None))).one_or_none()


def active_number(connection: Connection) -> int | None:
    """Number of the active version: the cheap query that every process runs twice a second."""
    return connection.execute(select(ActiveModel.version)).scalar_one_or_none()


def history(connection: Connection, *, limit: int, before: int | None = None) -> list[VersionRow]:
    """Versions from the newest to the oldest, at most `limit`, all older than `before`."""
    return newest(connection, _select_versions(), ModelVersion.version, limit, before)


def remove(database: Database, versions_dir: Path, version: int) -> None:
    """Delete a version that is not active; raises UnknownVersion or ActiveVersion."""
    with database.write() as connection:
        _lock_pointer(connection)
        row = get(connection, version)
        if row.is_active:
            raise ActiveVersion(version)
        connection.execute(delete(ModelVersion).where(ModelVersion.version == version))
    artifacts.remove(versions_dir / row.folder)


def prune(database: Database, versions_dir: Path, keep: int) -> list[int]:
    """Delete all but the newest `keep` versions and the active one; returns the deleted numbers.

    Rows go first: the next run removes a folder without a row, but a row without a folder is damage.
    """
    with database.write() as connection:
        _lock_pointer(connection)
        newest = select(ModelVersion.version).order_by(ModelVersion.version.desc()).limit(keep)
        retained = set(connection.execute(newest).scalars()) | {active_number(connection)}
        rows = connection.execute(select(ModelVersion.version, ModelVersion.folder)).all()
        old = [row for row in rows if row.version not in retained]
        connection.execute(delete(ModelVersion).where(ModelVersion.version.in_([row.version for row in old])))
    for row in old:
        artifacts.remove(versions_dir / row.folder)
    return [row.version for row in old]


def folders(connection: Connection) -> list[str]:
    """Names of the folders that have a row."""
    return list(connection.execute(select(ModelVersion.folder)).scalars())


def _select_versions() -> Any:
    return select(ModelVersion.__table__, ActiveModel.version.is_not(None).label("is_active")).outerjoin(
        ActiveModel.__table__, ActiveModel.version == ModelVersion.version
    )


def _lock_pointer(connection: Connection) -> None:
    """Wait for transactions that move the pointer or remove versions (SQLite has one writer anyway)."""
    connection.execute(select(ActiveModel.version).with_for_update())


def _point_at(connection: Connection, version: int, now: datetime) -> None:
    moved = connection.execute(update(ActiveModel).values(version=version, activated_at=now))
    if moved.rowcount == 0:
        connection.execute(insert(ActiveModel).values(id=1, version=version, activated_at=now))
