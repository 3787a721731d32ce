"""A restore: everything that an archive holds, into a database of either kind, or nothing of it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, delete, select, text

import migrations
from app.backup.archive import Archive, opened
from app.backup.tables import Layout, Page, clear, decoded, load, numbered, set_last_number, tables
from app.database import Counter, Database, advance
from app.errors import Conflict
from app.ratings.everything import digest_of_state
from app.ratings.set_wise import is_sqlite
from app.registry import artifacts
from app.registry.artifacts import MANIFEST, TEMPORARY, DamagedVersion
from app.settings import Settings
from app.training import queue

_FOLDER = re.compile(r"\w[\w.-]*")


class NotEmpty(Conflict):
    """The database holds something that a restore would mix with what the archive holds."""

    def __init__(self, table: str) -> None:
        super().__init__(f"the database is not empty (there are {table}); --replace puts the archive in its place")
        self.table = table


class InUse(Conflict):
    """A trainer works on the data that would be replaced."""

    def __init__(self, run_id: int) -> None:
        super().__init__(
            f"a trainer is working on run {run_id}; stop the service and its trainer before replacing data"
        )
        self.run_id = run_id


class NewerSchema(Conflict):
    """The archive was made by a release that knows more than this one."""

    def __init__(self, schema: str, palate: str) -> None:
        super().__init__(
            f"the backup has schema {schema} of Palate {palate}, which this release does not know; upgrade"
        )
        self.schema = schema


@dataclass(frozen=True, slots=True)
class Restored:
    """What is in the database now."""

    n_ratings: int
    n_versions: int
    revision: int
    digest: str
    warnings: tuple[str, ...]


def restore(database: Database, settings: Settings, path: Path, *, replace: bool = False) -> Restored:
    """Load an archive into an empty database, or in place of what is there; all or nothing.

    Everything is read and checked before anything is written, and what was written is compared with the digest of
    the ratings before it counts. Nothing else may use the database and the folder of the data meanwhile.
    """
    with opened(path) as archive, ExitStack() as undo:
        archive.check()
        facts = archive.manifest
        if not migrations.knows(facts["schema"]):
            raise NewerSchema(facts["schema"], facts["palate"])
        with database.write() as connection:
            advance(connection, "ratings", 0)  # locks: nobody writes ratings before this is over
            _make_room(database, connection, replace)
            for version in facts["versions"]:
                _put_version(archive, settings.versions_dir, version, undo)
            _load_tables(connection, archive)
            if digest_of_state(connection) != facts["digest"]:
                raise archive.damaged("the restored ratings have another digest than those of the backup")
        undo.pop_all()
    shutil.rmtree(settings.snapshot_dir, ignore_errors=True)  # the trainer's copy of what was there before
    told = {name: facts[name] for name in ("n_ratings", "revision", "digest")}
    warnings = (*facts["problems"], *_other_scale(settings, facts))
    return Restored(**told, n_versions=len(facts["versions"]), warnings=warnings)


def _other_scale(settings: Settings, facts: Mapping[str, Any]) -> Iterator[str]:
    there, here = facts["rating_scale"], settings.rating.model_dump()
    if there != here:
        yield f"the backup was made with the rating scale {_scale(there)}, these settings say {_scale(here)}"


def _scale(told: Mapping[str, Any]) -> str:
    step = "" if told["step"] is None else f" in steps of {told['step']:g}"
    return f"{told['min']:g} to {told['max']:g}{step}"


def _make_room(database: Database, connection: Connection, replace: bool) -> None:
    if replace:
        run = queue.running(connection)
        if run and run.lease_expires_at and run.lease_expires_at > database.now(connection):
            raise InUse(run.id)
        clear(connection)
        return
    for table in tables():
        is_filled = connection.execute(select(1).select_from(table).limit(1)).first()
        if is_filled and table is not Counter.__table__:
            raise NotEmpty(table.name)


def _load_tables(connection: Connection, archive: Archive) -> None:
    by_name = {table.name: table for table in tables()}
    for told in archive.manifest["tables"]:
        table = by_name[told["name"]]
        if table is Counter.__table__:
            connection.execute(delete(Counter))
        layout = Layout(tuple(told["columns"]), told["kinds"] and tuple(told["kinds"]))
        load(connection, table, layout, _pages(archive, table, layout, told["members"]))
        if numbered(table):
            set_last_number(connection, table, told["last_number"])
    if is_sqlite(connection):
        connection.execute(text("PRAGMA optimize"))
    else:
        connection.execute(text(f"ANALYZE {', '.join(by_name)}"))


def _pages(archive: Archive, table: Table, layout: Layout, members: list[dict[str, Any]]) -> Iterator[Page]:
    for member in members:
        try:
            yield decoded(archive.read(member["name"]), layout, member["n_rows"])
        except ValueError as error:
            raise archive.damaged(f"{member['name']} does not hold {member['n_rows']} {table.name}") from error


def _put_version(archive: Archive, versions_dir: Path, told: Mapping[str, Any], undo: ExitStack) -> None:
    """A version's folder from the archive, unless the very same is there."""
    if not all(_FOLDER.fullmatch(name) for name in (told["folder"], *told["files"])):
        raise archive.damaged(f"version {told['version']} has a file with a name that cannot be")
    folder = versions_dir / told["folder"]
    member = f"versions/{told['folder']}"
    if folder.exists():
        try:
            artifacts.verify(folder)
        except DamagedVersion:
            artifacts.remove(folder)
        else:
            if (folder / MANIFEST).read_bytes() == archive.read(f"{member}/{MANIFEST}"):
                return
            raise archive.damaged(f"another version lies in {folder}")
    temporary = versions_dir / f"{TEMPORARY}{told['folder']}"
    artifacts.remove(temporary)
    temporary.mkdir(parents=True)
    undo.callback(artifacts.remove, temporary)
    for file in told["files"]:
        with (temporary / file).open("wb") as out:
            out.writelines(archive.blocks(f"{member}/{file}"))
            out.flush()
            os.fsync(out.fileno())
    artifacts.verify(temporary)
    temporary.rename(folder)
    undo.callback(artifacts.remove, folder)
