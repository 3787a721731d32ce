"""A backup: everything that a service holds, as of one moment, in one file, while it is being written to."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table

import migrations
from app import __version__
from app.backup.archive import ArchiveWriter, writing
from app.backup.tables import Layout, encoded, last_number, numbered, pages, tables
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

_TRIES = 5
_ALL = 1_000_000
_BLOCK = 1 << 20


class VersionsKeepGoing(Conflict):
    """Versions were pruned faster than they could be copied."""

    def __init__(self) -> None:
        super().__init__("model versions are removed faster than they can be copied; keep more (PALATE_VERSIONS_KEEP)")


class _Pruned(Exception):
    """A version has gone since the moment of this backup."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What was backed up, as of which moment."""

    n_ratings: int
    n_versions: int
    revision: int
    digest: str
    n_bytes: int
    problems: tuple[str, ...]
    """Versions whose files are damaged or gone: the archive has their rows alone, as the service has."""


def back_up(database: Database, settings: Settings, path: Path) -> Backup:
    """Write an archive of everything at one moment; an earlier file at `path` is replaced once this one is whole."""
    for _ in range(_TRIES):
        try:
            with database.read() as connection, writing(path) as archive:
                hold_snapshot(connection)
                facts = _fill(archive, database, connection, settings)
        except _Pruned as pruned:
            log.info("%s was pruned while it was copied: the backup begins anew", pruned)
        else:
            told = {name: facts[name] for name in ("n_ratings", "revision", "digest")}
            n_versions = len(facts["versions"])
            return Backup(**told, n_versions=n_versions, n_bytes=path.stat().st_size, problems=tuple(facts["problems"]))
    raise VersionsKeepGoing


def _fill(archive: ArchiveWriter, database: Database, connection: Connection, settings: Settings) -> dict[str, Any]:
    """Versions first, since what is pruned meanwhile cannot be copied any more."""
    facts: dict[str, Any] = {
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
            facts["versions"].append(_add_version(archive, settings.versions_dir, row))
        except DamagedVersion as damaged:
            _refuse_pruned(database, row.version)
            log.warning("not in the backup: %s", damaged)
            facts["problems"].append(str(damaged))
    facts["tables"] = [_add_table(archive, connection, table) for table in tables()]
    facts["digest"] = ratings_digest(connection)
    archive.finish(facts)
    return facts


def _add_version(archive: ArchiveWriter, versions_dir: Path, row: VersionRow) -> dict[str, Any]:
    folder = versions_dir / row.folder
    manifest = artifacts.verify(folder, row.manifest)
    files = [MANIFEST, *manifest["files"]]
    for file in files:
        try:
            archive.add(f"versions/{row.folder}/{file}", _blocks(folder / file), is_packed=False)
        except FileNotFoundError as error:
            raise _Pruned(row.folder) from error
    return {"version": row.version, "folder": row.folder, "files": files}


def _refuse_pruned(database: Database, version: int) -> None:
    """A version that the database of now does not know either was pruned, not damaged."""
    with database.read() as connection:
        try:
            versions.get(connection, version)
        except UnknownVersion:
            raise _Pruned(f"version {version}") from None


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


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
        "last_number": last_number(connection, table) if numbered(table) else None,
        "members": members,
    }
