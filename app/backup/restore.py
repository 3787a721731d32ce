"""A restore: everything that an archive holds, into a database of either kind, or nothing of it."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, delete, select, text

import migrations
from app.api_keys import keys
from app.api_keys.models import ApiKey
from app.atomic_files import replacing
from app.backup.archive import Archive, opened
from app.backup.tables import Layout, Page, clear, decoded, load, numbered, set_last_number, tables
from app.db.connections import is_sqlite
from app.db.engine import Database, is_open
from app.db.revisions import Counter, advance
from app.errors import Conflict
from app.ratings.export import ratings_digest
from app.registry import artifacts
from app.registry.artifacts import MANIFEST, DamagedVersion
from app.settings import DATABASE_FILE, Settings
from app.training import queue

_MADE = (*(f"{DATABASE_FILE}{end}" for end in ("", "-wal", "-shm", "-journal")), "migrate.lock", "versions")
"""What a restore makes in the folder of the data."""
_FOLDER = re.compile(r"\w[\w.-]*")
_LOOKS, _BETWEEN_LOOKS = 10, 0.2
"""A server takes a moment to forget a session that has ended."""


class NotEmpty(Conflict):
    """The database holds something that a restore would mix with what the archive holds."""

    def __init__(self, table: str) -> None:
        super().__init__(f"the database is not empty (there are {table}); --replace puts the archive in its place")
        self.table = table


class InUse(Conflict):
    """Somebody works with the data, and would go on with what is no longer there."""

    def __init__(self, who: str) -> None:
        super().__init__(f"{who}: stop the service and its trainer before restoring")
        self.who = who


class KeysWouldGo(Conflict):
    """The archive is from before the first API key: with it in place nobody would need one any more."""

    def __init__(self) -> None:
        super().__init__(
            "the backup is from before the first API key, and without keys whatever looks like this machine is "
            "answered; --keep-keys keeps those of now"
        )


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


def restore(
    database: Database, settings: Settings, path: Path, *, replace: bool = False, keep_keys: bool = False
) -> Restored:
    """Load an archive into an empty database, or in place of what is there; all or nothing.

    Everything is read and checked before anything is written, and what was written is compared with the digest of
    the ratings before it counts. Raises InUse where somebody else has the database open. `keep_keys` leaves the API
    keys as they are; those of the archive, where it has any, take their place else.
    """
    with opened(path) as archive, ExitStack() as undo:
        archive.check()
        facts = archive.manifest
        if not migrations.knows(facts["schema"]):
            raise NewerSchema(facts["schema"], facts["palate"])
        _refuse_company(database)
        restored = [table for table in tables() if not (keep_keys and table is ApiKey.__table__)]
        with database.write() as connection:
            advance(connection, "ratings", 0)  # locks: nobody writes ratings before this is over
            keys_before = _keys_in_use(connection)
            _make_room(database, connection, restored, replace)
            for version in facts["versions"]:
                _put_version(archive, settings.versions_dir, version, undo)
            _load_tables(connection, archive, restored)
            if ratings_digest(connection) != facts["digest"]:
                raise archive.damaged("the restored ratings have another digest than those of the backup")
            if keys_before and not keys.is_any(connection):
                raise KeysWouldGo
            changed_keys = tuple(_changed_keys(keys_before, _keys_in_use(connection)))
        undo.pop_all()
    shutil.rmtree(settings.snapshot_dir, ignore_errors=True)  # the trainer's copy of what was there before
    told = {name: facts[name] for name in ("n_ratings", "revision", "digest")}
    warnings = (*facts["problems"], *_other_scale(settings, facts), *changed_keys)
    return Restored(**told, n_versions=len(facts["versions"]), warnings=warnings)


@contextmanager
def leaving_nothing(settings: Settings) -> Iterator[None]:
    """Where the folder of the data held no database before, an error of what follows leaves it as it was.

    A service that has begun to use the folder meanwhile keeps what is there, and other programs keep their files.
    """
    folder = settings.data_dir.absolute()
    new_folders = [each for each in (folder, *folder.parents) if not each.exists()]
    before = set() if new_folders else set(folder.iterdir())
    try:
        yield
    except BaseException:
        has_one = bool(settings.database_url) or any(each.suffix == ".db" for each in before)
        if new_folders and not _is_in_use(settings):
            shutil.rmtree(new_folders[-1], ignore_errors=True)
        elif not has_one and not _is_in_use(settings):
            for each in {folder / name for name in _MADE} - before:
                shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)
        raise


def _is_in_use(settings: Settings) -> bool:
    """Whether a service works on the file of SQLite, which it may have found where a restore had just made it."""
    file = settings.data_dir / DATABASE_FILE
    return not settings.database_url and file.exists() and is_open(file)


def _refuse_company(database: Database) -> None:
    for _ in range(_LOOKS):
        who = database.others()
        if who is None:
            return
        time.sleep(_BETWEEN_LOOKS)
    raise InUse(who or "")


def _keys_in_use(connection: Connection) -> dict[str, str]:
    """Their names, by how they begin."""
    return {row.prefix: row.name for row in keys.in_use(connection)}


def _changed_keys(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    gone = [name for prefix, name in before.items() if prefix not in now]
    if gone:
        yield f"API keys that the backup does not know work no longer: {', '.join(map(repr, gone))}"
    added = [name for prefix, name in now.items() if prefix not in before]
    if before and added:
        yield f"API keys of the backup that were revoked or unknown here work again: {', '.join(map(repr, added))}"


def _other_scale(settings: Settings, facts: Mapping[str, Any]) -> Iterator[str]:
    there, here = facts["rating_scale"], settings.rating.model_dump()
    if there != here:
        yield f"the backup was made with the rating scale {_scale(there)}, these settings say {_scale(here)}"


def _scale(told: Mapping[str, Any]) -> str:
    step = "" if told["step"] is None else f" in steps of {told['step']:g}"
    return f"{told['min']:g} to {told['max']:g}{step}"


def _make_room(database: Database, connection: Connection, restored: Sequence[Table], replace: bool) -> None:
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
    for told in archive.manifest["tables"]:
        table = by_name.get(told["name"])
        if table is None:
            continue
        if table is Counter.__table__:
            connection.execute(delete(Counter))
        layout = Layout(tuple(told["columns"]), told["kinds"] and tuple(told["kinds"]))
        if not layout.fits(table):
            raise archive.damaged(f"{table.name} has columns that it cannot have")
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
    versions_dir.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
        temporary.mkdir()
        for file in told["files"]:
            with (temporary / file).open("wb") as out:
                out.writelines(archive.blocks(f"{member}/{file}"))
        artifacts.verify(temporary)
    undo.callback(artifacts.remove, folder)
