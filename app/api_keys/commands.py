"""The work of `palate keys` and `palate migrate --first-key`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from datetime import timedelta
from pathlib import Path

from rich.table import Table

from app.api_keys import keys
from app.api_keys.keys import KeyRow, KeyScope, NameTaken, NewKey
from app.db.engine import Database
from app.db.tables import utc_now


def make_key(
    database: Database, name: str, scopes: Collection[KeyScope], lifetime: timedelta | None, file: Path | None
) -> NewKey:
    """Create a key; if `file` is set, it is written before the key becomes valid."""
    with database.write() as connection:
        now = database.now(connection)
        made = keys.create(connection, name, scopes, now, now + lifetime if lifetime else None)
        if file:
            _write_secret(file, made.token)
    return made


def make_first_key(database: Database, file: Path) -> NewKey | None:
    """An admin's key in `file`; None if a key exists or ever existed."""
    with database.read() as connection:
        if keys.is_any(connection):
            return None
    try:
        return make_key(database, "first", ["admin"], None, file)
    except NameTaken:  # another process was quicker
        return None


def table_of(rows: Iterable[KeyRow]) -> Table:
    """A row for each key."""
    table = Table("name", "begins with", "scopes", "created", "last used", "state")
    for row in rows:
        used = "-" if row.last_used_at is None else f"{row.last_used_at:%Y-%m-%d %H:%M}"
        scopes, created = " ".join(row.scopes), f"{row.created_at:%Y-%m-%d}"
        table.add_row(row.name, f"{row.prefix}...", scopes, created, used, _state_of(row))
    return table


def _state_of(row: KeyRow) -> str:
    if row.revoked_at is not None:
        return f"revoked {row.revoked_at:%Y-%m-%d}"
    if row.expires_at is None:
        return "active"
    word = "expired" if row.expires_at <= utc_now() else "active until"
    return f"{word} {row.expires_at:%Y-%m-%d}"


def _write_secret(file: Path, token: str) -> None:
    """Readable only by its owner from the start."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        os.fchmod(out.fileno(), 0o600)  # if the file existed
        out.write(f"{token}\n")
