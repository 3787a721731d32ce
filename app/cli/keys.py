"""Commands on API keys."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli.database import opened_database
from app.cli.terminal import CommandFailed, console, error_console


class ScopeName(StrEnum):
    """`KeyScope` of the API keys as an enum: typer does not read a list of literals."""

    read = "read"
    write = "write"
    admin = "admin"


def create_key(
    name: Annotated[str, typer.Argument(help="Name of the client that will use the key.")],
    scope: Annotated[
        list[ScopeName], typer.Option(help="What the key may do; admin includes all; repeat for several.")
    ],
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; never by default.")] = None,
    file: Annotated[Path | None, typer.Option(help="File to write the key to instead of printing it.")] = None,
) -> None:
    """Create an API key and print it; it is not stored, so it cannot be shown again."""
    from datetime import timedelta

    from app.api_keys.commands import make_key

    if file and file.exists():
        raise CommandFailed(f"{file} already exists; choose a new file for the key")
    with opened_database(may_create=True) as (database, _):
        made = make_key(database, name, [each.value for each in scope], timedelta(days) if days else None, file)
    where = f"is in {file}" if file else "is"
    error_console.print(f"API key {made.row.name!r} ({made.row.prefix}) {where}")
    if file is None:
        console.print(made.token)


def list_keys() -> None:
    """List the API keys, newest first."""
    from app.api_keys import keys
    from app.api_keys.commands import table_of

    with opened_database() as (database, _), database.read() as connection:
        console.print(table_of(keys.history(connection, limit=1000)))


def revoke_key(name: Annotated[str, typer.Argument(help="Name of the key.")]) -> None:
    """Revoke an API key permanently; every process refuses it within two seconds."""
    from app.api_keys import keys

    with opened_database() as (database, _), database.write() as connection:
        row = keys.revoke(connection, name, database.now(connection))
    console.print(f"API key {row.name!r} ({row.prefix}) is revoked")
