"""Restore a backup into SQLite or PostgreSQL: all of it or nothing."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, delete, select, text

import migrations
from app.api_keys import keys
from app.api_keys.models import ApiKey
from app.atomic_files import replacing
from app.backup.archive import Archive, Summary, open_archive
from app.backup.tables import Layout, Page, clear, decoded, load, set_last_number, tables
from app.db.connections import is_sqlite
from app.db.engine import Database, is_open
from app.db.revisions import Counter, advance
from app.errors import Conflict
from app.ratings.export import ratings_digest
from app.registry import artifacts
from app.registry.artifacts import MANIFEST, DamagedVersion
from app.settings import DATABASE_FILE, RatingScale, Settings
from app.training import queue

_CREATED_FILES = (*(f"{DATABASE_FILE}{end}" for end in ("", "-wal", "-shm", "-journal")), "migrate.lock", "versions")
"""What a restore creates in the data folder."""
_FOLDER = re.compile(r"\w[\w.-]*")
_MAX_CHECKS, _CHECK_INTERVAL = 10, 0.2


class NotEmpty(Conflict):
    """The database has rows that a restore would mix with those of the backup."""

    def __init__(self, table: str) -> None:
        super().__init__(f"the database is not empty (there are {table}); --replace replaces its contents")


class InUse(Conflict):
    """Another process uses the data that a restore replaces."""

    def __init__(self, who: str) -> None:
        super().__init__(f"{who}: stop the service and its trainer before restoring")


class WouldRemoveAllKeys(Conflict):
    def __init__(self) -> None:
        super().__init__(
            "the backup has no API keys, and without keys every request that appears to come from this machine is "
            "answered; --keep-keys keeps the current keys"
        )


class NewerSchema(Conflict):
    def __init__(self, schema: str, palate: str) -> None:
        super().__init__(
            f"the backup has schema {schema} of Palate {palate}, which this release does not know: upgrade first"
        )


def restore(
    database: Database, settings: Settings, path: Path, *, replace: bool = False, keep_keys: bool = False
) -> Summary:
    """Load a backup into an empty database, or replace its contents; all or nothing.

    The whole archive is checked before anything is written, and the digest of the ratings before the transaction is
    committed. `keep_keys` keeps the current API keys instead of those of the archive. Raises DamagedArchive,
    NewerSchema, NotEmpty, InUse (another process has the database open) and WouldRemoveAllKeys.
    """
    with open_archive(path) as archive, ExitStack() as undo:
        archive.check()
        contents = archive.manifest
        if not migrations.knows(contents["schema"]):
            raise NewerSchema(contents["schema"], contents["palate"])
        if who := _other_sessions(database):
            raise InUse(who)
        restored = [table for table in tables() if not (keep_keys and table is ApiKey.__table__)]
        with database.write() as connection:
            advance(connection, "ratings", 0)  # takes the lock of writers of ratings
            keys_before = _keys_in_use(connection)
            _clear_or_refuse(database, connection, restored, replace)
            for version in contents["versions"]:
                _put_version(archive, settings.versions_dir, version, undo)
            _load_tables(connection, archive, restored)
            if ratings_digest(connection) != contents["digest"]:
                raise archive.damaged("the digest of the restored ratings differs from that of the backup")
            if keys_before and not keys.is_any(connection):
                raise WouldRemoveAllKeys
            changed_keys = tuple(_changed_keys(keys_before, _keys_in_use(connection)))
        undo.pop_all()
    shutil.rmtree(settings.snapshot_dir, ignore_errors=True)  # the trainer's copy of the old ratings
    scale, warnings = RatingScale.model_construct(**contents["rating_scale"]), list(changed_keys)
    if scale != settings.rating:
        warnings.insert(0, f"the backup has the rating scale {scale}, the settings have {settings.rating}")
    return Summary.of(contents, *warnings)


@contextmanager
def undoing_new_files(settings: Settings) -> Iterator[None]:
    """If the data folder had no database, an error in the block removes the files that were created in it since.

    They stay if a service has started to use them in the meantime. Files of other programs always stay.
    """
    folder = settings.data_dir.absolute()
    new_folders = [each for each in (folder, *folder.parents) if not each.exists()]
    before = set() if new_folders else set(folder.iterdir())
    try:
        yield
    except BaseException:
        had_database = bool(settings.database_url) or any(each.suffix == ".db" for each in before)
        if new_folders and not _is_in_use(settings):
            shutil.rmtree(new_folders[-1], ignore_errors=True)
        elif not had_database and not _is_in_use(settings):
            for each in {folder / name for name in _CREATED_FILES} - before:
                shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)
        raise


def _is_in_use(settings: Settings) -> bool:
    """Whether a service has the SQLite file open, which a restore may just have created."""
    file = settings.sqlite_file
    return file is not None and file.exists() and is_open(file)


def _other_sessions(database: Database) -> str | None:
    """Who else has the database open; a server lists a session for a short time after it has ended."""
    for _ in range(_MAX_CHECKS):
        if not database.other_sessions():
            return None
        time.sleep(_CHECK_INTERVAL)
    return database.other_sessions()


def _keys_in_use(connection: Connection) -> dict[str, str]:
    """Name of each active key, by its prefix."""
    return {row.prefix: row.name for row in keys.active(connection)}


def _changed_keys(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    gone = [name for prefix, name in before.items() if prefix not in now]
    if gone:
        yield f"API keys that are not in the backup no longer work: {', '.join(map(repr, gone))}"
    added = [name for prefix, name in now.items() if prefix not in before]
    if before and added:
        yield f"API keys of the backup that were revoked or unknown here now work: {', '.join(map(repr, added))}"


def _clear_or_refuse(database: Database, connection: Connection, restored: Sequence[Table], replace: bool) -> None:
    if replace:
        run = queue.running(connection)
        if run and run.lease_expires_at and run.lease_expires_at > database.now(connection):
            raise InUse(f"a trainer is working on run {run.id}")
        clear(connection, restored)
        return
    for table in restored:
        is_filled = connection.execute(select(1).select_from(table).limit(1)).first()
        if is_filled and table is not Counter.__table__:
            raise NotEmpty(table.name)


def _load_tables(connection: Connection, archive: Archive, restored: Sequence[Table]) -> None:
    by_name = {table.name: table for table in restored}
    for entry in archive.manifest["tables"]:
        table = by_name.get(entry["name"])
        if table is None:
            continue
        if table is Counter.__table__:
            connection.execute(delete(Counter))
        layout = Layout(tuple(entry["columns"]), entry["kinds"] and tuple(entry["kinds"]))
        if not layout.fits(table):
            raise archive.damaged(f"{table.name} has unknown columns")
        load(connection, table, layout, _pages(archive, table, layout, entry["members"]))
        if table.autoincrement_column is not None:
            set_last_number(connection, table, entry["last_number"])
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


def _put_version(archive: Archive, versions_dir: Path, entry: Mapping[str, Any], undo: ExitStack) -> None:
    """Write a version's folder, unless an identical one exists."""
    if not all(_FOLDER.fullmatch(name) for name in (entry["folder"], *entry["files"])):
        raise archive.damaged(f"version {entry['version']} has a file with an invalid name")
    folder = versions_dir / entry["folder"]
    member = f"versions/{entry['folder']}"
    if folder.exists():
        try:
            artifacts.verify(folder)
        except DamagedVersion:
            artifacts.remove(folder)
        else:
            if (folder / MANIFEST).read_bytes() == archive.read(f"{member}/{MANIFEST}"):
                return
            raise archive.damaged(f"a different version is in {folder}")
    versions_dir.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
        temporary.mkdir()
        for file in entry["files"]:
            with (temporary / file).open("wb") as out:
                out.writelines(archive.blocks(f"{member}/{file}"))
        artifacts.verify(temporary)
    undo.callback(artifacts.remove, folder)
