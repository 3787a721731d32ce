"""Write a backup: all data of a service at one point in time, in one file, while the service runs."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table

import migrations
from app import __version__
from app.backup.archive import ArchiveWriter, Summary, new_archive
from app.backup.tables import Layout, encoded, last_number, pages, tables
from app.db.engine import Database
from app.db.revisions import revision
from app.db.tables import utc_now
from app.errors import Conflict
from app.ratings.bulk_read import hold_snapshot
from app.ratings.export import ratings_digest
from app.ratings.store import totals
from app.registry import artifacts, versions
from app.registry.artifacts import MANIFEST, DamagedVersion
from app.registry.versions import UnknownVersion, VersionRow
from app.settings import Settings

log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 5
_ALL = 1_000_000
_BLOCK = 1 << 20


class VersionsPrunedTooFast(Conflict):
    def __init__(self) -> None:
        super().__init__("model versions are removed faster than they can be copied; keep more (PALATE_VERSIONS_KEEP)")


class _Pruned(Exception):
    """A version was pruned after the backup began."""


def back_up(database: Database, settings: Settings, path: Path) -> Summary:
    """Write a backup that replaces `path` when it is complete. Raises VersionsPrunedTooFast.

    It warns of versions whose files are damaged or missing: the archive has only their rows.
    """
    for _ in range(_MAX_ATTEMPTS):
        try:
            with database.read() as connection, new_archive(path) as archive:
                hold_snapshot(connection)
                return Summary.of(_fill(archive, database, connection, settings))
        except _Pruned as pruned:
            log.info("%s was pruned while being copied; restarting the backup", pruned)
    raise VersionsPrunedTooFast


def _fill(archive: ArchiveWriter, database: Database, connection: Connection, settings: Settings) -> dict[str, Any]:
    """Versions first, because one that is pruned in the meantime cannot be copied."""
    contents: dict[str, Any] = {
        "palate": __version__,
        "created_at": utc_now().isoformat(),
        "database": connection.dialect.name,
        "schema": migrations.current(connection),
        "rating_scale": settings.rating.model_dump(),
        "revision": revision(connection, "ratings"),
        "n_ratings": totals(connection).n_ratings,
        "problems": [],
        "versions": [],
    }
    for row in versions.history(connection, limit=_ALL):
        try:
            contents["versions"].append(_add_version(archive, settings.versions_dir, row))
        except DamagedVersion as damaged:
            _raise_if_pruned(database, row.version)
            log.warning("not in the backup: %s", damaged)
            contents["problems"].append(str(damaged))
    contents["tables"] = [_add_table(archive, connection, table) for table in tables()]
    contents["digest"] = ratings_digest(connection)
    archive.finish(contents)
    return contents


def _add_version(archive: ArchiveWriter, versions_dir: Path, row: VersionRow) -> dict[str, Any]:
    folder = versions_dir / row.folder
    manifest = artifacts.verify(folder, row.manifest)
    files = [MANIFEST, *manifest["files"]]
    for file in files:
        try:
            with (folder / file).open("rb") as source:
                blocks = iter(partial(source.read, _BLOCK), b"")
                archive.add(f"versions/{row.folder}/{file}", blocks, is_compressed=False)
        except FileNotFoundError as error:
            raise _Pruned(row.folder) from error
    return {"version": row.version, "folder": row.folder, "files": files}


def _raise_if_pruned(database: Database, version: int) -> None:
    """Raise _Pruned if the version is no longer in the database: then its files are not damaged."""
    with database.read() as connection:
        try:
            versions.get(connection, version)
        except UnknownVersion:
            raise _Pruned(f"version {version}") from None


def _add_table(archive: ArchiveWriter, connection: Connection, table: Table) -> dict[str, Any]:
    layout = Layout.of(table)
    suffix = "numbers" if layout.kinds else "ndjson"
    members = []
    for number, page in enumerate(pages(connection, table)):
        name = f"tables/{table.name}/{number:06}.{suffix}"
        archive.add(name, iter((encoded(page),)))
        members.append({"name": name, "n_rows": len(page)})
    return {
        "name": table.name,
        "columns": layout.columns,
        "kinds": layout.kinds,
        "last_number": last_number(connection, table),
        "members": members,
    }
