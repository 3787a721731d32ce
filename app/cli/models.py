"""Commands on published model versions."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from app.cli.database import opened_database
from app.cli.terminal import console

VersionArgument = Annotated[int, typer.Argument(help="Version number.")]


def list_models() -> None:
    """List the published versions, newest first."""
    from app.registry import versions

    with opened_database() as (database, _), database.read() as connection:
        active = versions.active_number(connection)
        rows = versions.history(connection, limit=1000)
    table = Table("version", "created", "ratings", "trained through", "hold-out RMSE", "digest")
    for row in rows:
        mark = " (active)" if row.version == active else ""
        rmse = row.manifest["metrics"].get("holdout_rmse")
        table.add_row(
            f"{row.version}{mark}",
            f"{row.created_at:%Y-%m-%d %H:%M:%S}",
            str(row.manifest["n_ratings"]),
            str(row.trained_through),
            "-" if rmse is None else f"{rmse:.4f}",
            row.digest[:12],
        )
    console.print(table)


def activate_model(version: VersionArgument) -> None:
    """Activate a version; every process switches to it within two seconds."""
    from app.registry import versions

    with opened_database() as (database, settings):
        versions.activate(database, settings.versions_dir, version)
    console.print(f"version {version} is active")


def delete_model(version: VersionArgument) -> None:
    """Delete a version that is not active."""
    from app.registry import versions

    with opened_database() as (database, settings):
        versions.remove(database, settings.versions_dir, version)
    console.print(f"version {version} is deleted")
