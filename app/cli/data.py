"""Commands that move data: import, export, recommendations, digest, backup and restore."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from app.cli.database import opened_database
from app.cli.progress import task_progress
from app.cli.terminal import INTERRUPTED, USAGE_ERROR, CommandFailed, console, error_console, interruptible, opened
from app.imports.file_options import Encoding, FileFormat
from app.settings import read_settings

if TYPE_CHECKING:
    from app.backup.archive import Summary
    from app.imports.line_import import LineImport
    from app.imports.schemas import ImportReport

File = Annotated[Path, typer.Argument(help="The file; - reads standard input.", allow_dash=True)]
FormatOption = Annotated[FileFormat, typer.Option("--format", help="File format; auto detects it from the first line.")]
EncodingOption = Annotated[Encoding, typer.Option(help="Character encoding.")]
Column = Annotated[str | None, typer.Option(help="Name of the column, if it is not detected.")]


def import_ratings(
    file: File,
    user_column: Column = None,
    item_column: Column = None,
    value_column: Column = None,
    rated_at_column: Column = None,
    file_format: FormatOption = "auto",
    encoding: EncodingOption = "utf-8",
) -> None:
    """Import ratings: CSV, TSV, `::` or NDJSON, with or without a header, optionally gzipped."""
    from app.ratings import bulk_import

    options = bulk_import.ImportOptions(file_format, encoding, user_column, item_column, value_column, rated_at_column)
    _import(file, bulk_import.begin_import, options, "ratings")


def import_items(
    file: File,
    item_column: Column = None,
    title_column: Column = None,
    categories_column: Column = None,
    file_format: FormatOption = "auto",
    encoding: EncodingOption = "utf-8",
) -> None:
    """Import titles and categories: movies.csv of MovieLens, or any CSV or NDJSON."""
    from app.items import bulk_import

    options = bulk_import.ItemImportOptions(file_format, encoding, item_column, title_column, categories_column)
    _import(file, bulk_import.begin_import, options, "items")


def _import(file: Path, begin_import: Callable[..., LineImport[Any]], options: object, what: str) -> None:
    columns = (TextColumn(f"importing {what}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    exit_code = 1
    with opened_database(may_create=True) as (database, settings), opened(file, "rb") as source, bar as progress:
        task = progress.add_task(what, total=None if str(file) == "-" else file.stat().st_size)
        running = begin_import(
            database, settings, options, lambda report: progress.update(task, completed=report.n_bytes)
        )
        try:
            report = _feed(running, source)
        except KeyboardInterrupt:
            exit_code = INTERRUPTED
            report = running.break_off("stopped by Ctrl-C; the rows counted above are saved")
    console.print(
        f"{report.created:,} {what} created, {report.updated:,} updated, {report.unchanged:,} unchanged, "
        f"{report.bad:,} bad lines; revision {report.revision}"
    )
    for bad in report.bad_lines:
        console.print(f"  line {bad.line}: {bad.reason}: {bad.text}")
    if report.stopped_because:
        raise CommandFailed(report.stopped_because, exit_code)


def _feed(running: LineImport[Any], source: BinaryIO) -> ImportReport:
    """Ctrl-C stops reading at once, but a block that is being saved is completed, so that the report counts it."""
    from app.imports.line_import import blocks_of

    for block in blocks_of(source):
        with interruptible() as is_interrupted:
            running.feed(block)
        if is_interrupted():
            raise KeyboardInterrupt
        if running.is_stopped:
            break
    with interruptible():
        return running.finish()


def export(
    file: Annotated[
        Path,
        typer.Argument(help="File to write, .csv or .ndjson; - writes NDJSON to standard output.", allow_dash=True),
    ],
) -> None:
    """Export all ratings in a format that `palate import` reads."""
    from app.ratings.export import export as export_lines

    with opened_database() as (database, _), database.read() as connection, opened(file, "wb") as out:
        for block in export_lines(connection, "csv" if file.suffix == ".csv" else "ndjson"):
            out.write(block)


def recommend(
    users: Annotated[list[str] | None, typer.Argument(help="User ids.", show_default=False)] = None,
    out: Annotated[Path, typer.Option(help="File to write, .csv or .parquet.")] = Path("recommendations.csv"),
    all_users: Annotated[bool, typer.Option("--all", help="Recommend to every user.")] = False,
    n: Annotated[int, typer.Option(min=1, max=1000, help="Items per user.")] = 10,
    min_ratings: Annotated[int, typer.Option(min=0, help="Exclude items with fewer ratings.")] = 0,
    category: Annotated[
        list[str] | None, typer.Option(help="Only items in any of these categories; repeat for several.")
    ] = None,
) -> None:
    """Write the best items for some or all users to a CSV or Parquet file."""
    from app.recommendations import batch_export
    from app.recommendations.dispatch import Recommender
    from app.recommendations.schemas import ItemFilter, ListRequest
    from app.registry.live_model import LiveModel

    if all_users == bool(users):
        raise CommandFailed("pass user ids, or --all", USAGE_ERROR)
    request = ListRequest(n=n, filter=ItemFilter(any_of=tuple(category or ()), min_ratings=min_ratings))
    with opened_database() as (database, settings), task_progress() as progress:
        live = LiveModel(database, settings)
        live.refresh()
        bar = progress.add_task("users", total=len(users) if users else batch_export.count_users(database), detail="")
        user_ids = users or batch_export.all_user_ids(database)
        with closing(Recommender(database, live, settings)) as recommender:
            n_lines = batch_export.write_lists(
                recommender, user_ids, request, out, lambda n_users: progress.advance(bar, n_users)
            )
    console.print(f"{n_lines:,} lines in {out}")


def digest() -> None:
    """Print a digest of all ratings; two services with the same ratings have the same digest."""
    from app.ratings.bulk_read import hold_snapshot
    from app.ratings.export import ratings_digest

    with opened_database() as (database, _), database.read() as connection:
        hold_snapshot(connection)
        console.print(ratings_digest(connection))


def backup(
    file: Annotated[Path, typer.Argument(help="The archive to write; an existing file is replaced.")],
) -> None:
    """Write a backup (ratings, items, runs, versions) to one archive; the service may keep running."""
    from app.backup.backup import back_up

    with opened_database() as (database, settings):
        made = back_up(database, settings, file)
    _print_summary("backed up", made)


def restore(
    file: Annotated[Path, typer.Argument(help="An archive written by `palate backup`, from SQLite or PostgreSQL.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace everything in the database.")] = False,
    keep_keys: Annotated[
        bool, typer.Option("--keep-keys", help="Keep the current API keys instead of those of the archive.")
    ] = False,
) -> None:
    """Restore a backup into an empty database that is not in use; a damaged archive changes nothing."""
    from app.backup.restore import restore as restore_from
    from app.backup.restore import undoing_new_files

    with undoing_new_files(read_settings()), opened_database(may_create=True) as (database, settings):
        restored = restore_from(database, settings, file, replace=replace, keep_keys=keep_keys)
    _print_summary("restored", restored)


def _print_summary(done: str, data: Summary) -> None:
    text = f"{done} {data.n_ratings:,} ratings and {data.n_versions} versions at revision {data.revision}"
    console.print(f"{text}; digest {data.digest}")
    for warning in data.warnings:
        error_console.print(f"warning: {warning}", style="yellow")
