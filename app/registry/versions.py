"""Published versions: which exist, which one answers, and how that changes.

Everything that publishes, activates or removes takes the pointer's row first, so these never cross each other.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from app.db.engine import Database
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
    """The version that answers cannot be deleted."""

    def __init__(self, version: int) -> None:
        super().__init__(f"model version {version} is active; activate another one before deleting it")
        self.version = version


def publish(
    connection: Connection, *, run_id: int | None, folder: str, manifest: Manifest, created_at: datetime
) -> int:
    """List a complete folder as the newest version and make it the active one; returns its number.

    Call it in the transaction that proves that the run still belongs to the caller: then either all of it
    becomes true or nothing.
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
    """Make an existing version the one that answers, after checking its files, until a later run publishes one.

    Raises UnknownVersion, or DamagedVersion and nothing changes.
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
    row = find_active(connection)
    if row is None:
        raise NoActiveVersion
    return row


def find_active(connection: Connection) -> VersionRow | None:
    return connection.execute(_select_versions().where(ActiveModel.version.is_not(None))).one_or_none()


def active_number(connection: Connection) -> int | None:
    """Number of the active version: the cheap question that every process asks twice a second."""
    return connection.execute(select(ActiveModel.version)).scalar_one_or_none()


def history(connection: Connection, *, limit: int, before: int | None = None) -> list[VersionRow]:
    """Versions from the newest to the oldest, at most `limit`, all older than `before`."""
    statement = _select_versions().order_by(ModelVersion.version.desc()).limit(limit)
    if before is not None:
        statement = statement.where(ModelVersion.version < before)
    return list(connection.execute(statement))


def remove(database: Database, versions_dir: Path, version: int) -> None:
    """Delete a version that does not answer; raises UnknownVersion or ActiveVersion."""
    with database.write() as connection:
        _lock_pointer(connection)
        row = get(connection, version)
        if row.is_active:
            raise ActiveVersion(version)
        connection.execute(delete(ModelVersion).where(ModelVersion.version == version))
    artifacts.remove(versions_dir / row.folder)


def prune(database: Database, versions_dir: Path, keep: int) -> list[int]:
    """Delete all but the newest `keep` versions and the active one; returns what was deleted.

    Rows go first: a folder without a row is rubbish that the next run removes, a row without a folder is damage.
    """
    with database.write() as connection:
        _lock_pointer(connection)
        newest = select(ModelVersion.version).order_by(ModelVersion.version.desc()).limit(keep)
        kept = set(connection.execute(newest).scalars()) | {active_number(connection)}
        rows = connection.execute(select(ModelVersion.version, ModelVersion.folder)).all()
        old = [row for row in rows if row.version not in kept]
        connection.execute(delete(ModelVersion).where(ModelVersion.version.in_([row.version for row in old])))
    for row in old:
        artifacts.remove(versions_dir / row.folder)
    return [row.version for row in old]


def folders(connection: Connection) -> list[str]:
    """Folder names that rows speak of."""
    return list(connection.execute(select(ModelVersion.folder)).scalars())


def count(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(ModelVersion)).scalar_one()


def _select_versions() -> Any:
    return select(ModelVersion.__table__, ActiveModel.version.is_not(None).label("is_active")).outerjoin(
        ActiveModel.__table__, ActiveModel.version == ModelVersion.version
    )


def _lock_pointer(connection: Connection) -> None:
    """Wait for others that move the pointer or remove versions (SQLite has one writer anyway)."""
    connection.execute(select(ActiveModel.version).with_for_update())


def _point_at(connection: Connection, version: int, now: datetime) -> None:
    moved = connection.execute(update(ActiveModel).values(version=version, activated_at=now))
    if moved.rowcount == 0:
        connection.execute(insert(ActiveModel).values(id=1, version=version, activated_at=now))
