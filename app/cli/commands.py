"""`palate`: every command reads its arguments, calls one function and prints what came of it.

Heavy modules are imported inside the commands, so that `palate --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.imports.file_kinds import Encoding, FileFormat
from app.settings import Settings, UnusableSettings, read_settings

if TYPE_CHECKING:
    from app.backup.backup import Backup
    from app.backup.restore import Restored
    from app.db.engine import Database
    from app.engine.losses.base import Loss
    from app.engine.recipe import Recipe
    from app.engine.search import Trial
    from app.imports.line_import import LineImport, OnProgress
    from app.imports.schemas import ImportReport
    from app.training.queue import Epoch, RunRow
    from app.tuning.store import SearchRun, Wanted

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Palate: recommendations from rating values.")
models_app = typer.Typer(no_args_is_help=True, help="Published model versions.")
app.add_typer(models_app, name="models")
keys_app = typer.Typer(no_args_is_help=True, help="API keys: who may ask for what.")
app.add_typer(keys_app, name="keys")

console = Console()
complaints = Console(stderr=True)

_INTERRUPTED = 130  # what shells report for a command ended by Ctrl-C

File = Annotated[Path, typer.Argument(help="The file; - reads standard input.", allow_dash=True)]
FormatOption = Annotated[
    FileFormat, typer.Option("--format", help="How the file is written; auto looks at its first line.")
]
EncodingOption = Annotated[Encoding, typer.Option(help="How its characters are written.")]
Column = Annotated[str | None, typer.Option(help="Name of the column, where it is not found by itself.")]
LossOption = Annotated[
    str | None, typer.Option(help='What to minimise: a name or an expression, as "log(cosh(r - r_hat))".')
]
PenaltyOption = Annotated[str | None, typer.Option(help="l2, elastic_net, none, or an expression in theta.")]
LinkOption = Annotated[str | None, typer.Option(help="identity, sigmoid or exp; the loss's own by default.")]
LossParameterOption = Annotated[
    list[str] | None, typer.Option(help="A number that the loss calls by name, as delta=1.5; repeat for several.")
]
_ToldLoss = tuple[str | None, str | None, str | None, list[str]]
"""The values of the four options above."""


class StrategyName(StrEnum):
    """As `Strategy` of the engine, which typer cannot read."""

    grid = "grid"
    random = "random"
    tpe = "tpe"


class ScopeName(StrEnum):
    """As `KeyScope` of the API keys."""

    read = "read"
    write = "write"
    admin = "admin"


class PruningName(StrEnum):
    """As `Pruning` of the engine."""

    none = "none"
    median = "median"
    halving = "halving"


class Failed(typer.Exit):
    """Ends the command with exit code 1 after a line that says why."""

    def __init__(self, reason: str, code: int = 1) -> None:
        complaints.print(reason, style="red", markup=False, highlight=False, soft_wrap=True)
        super().__init__(code)


@app.callback()
def choose_data(
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data; the same as PALATE_DATA_DIR.", show_default=False)
    ] = None,
) -> None:
    """Settings come from the environment (PALATE_...); docs/settings.md lists them."""
    if data_dir is not None:
        os.environ["PALATE_DATA_DIR"] = str(data_dir)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="API processes.")] = 1,
    access_log: Annotated[bool, typer.Option(help="Log every request; it costs about a quarter of the speed.")] = False,
) -> None:
    """Start the service, and its trainer unless PALATE_TRAINER=external."""
    import uvicorn

    from app.logs import set_up_logs
    from app.metrics.processes import folder_of_figures

    with _database(is_made=True) as (database, settings):  # what is wrong with it is better said now than half started
        _refuse_open_door(database, settings, host)
    if access_log:
        os.environ["PALATE_LOG_REQUESTS"] = "true"
    set_up_logs(settings, "service")
    with folder_of_figures() if workers > 1 else nullcontext():
        if workers > 1 and sys.platform == "linux":  # elsewhere system libraries do not outlive a fork
            from app.api_processes import fork_workers

            fork_workers()
        uvicorn.run(
            "app.main:app",
            host=host,
            port=port,
            http="app.http.body_limits:BoundedHttp",
            workers=workers,
            log_config=None,  # the lines of the server look like ours
            access_log=False,  # the service writes its own, which know the route
            timeout_keep_alive=75,  # longer than clients and proxies keep one: else it is closed under a request
            timeout_graceful_shutdown=20,
        )


@app.command()
def worker() -> None:
    """Run a trainer process, for services started with PALATE_TRAINER=external."""
    from app.worker import main as run_worker

    settings = _settings()
    with _refusals_told():
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    raise typer.Exit(run_worker(settings))


@app.command()
def demo(
    ratings: Annotated[Path | None, typer.Option(help="Your own ratings instead of the sample.")] = None,
    items: Annotated[Path | None, typer.Option(help="Titles for them; movies.csv beside them by default.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder to keep the data in; a temporary one else.")] = None,
    port: Annotated[int, typer.Option(help="Port of the service; 0 takes a free one.")] = 0,
    exit_after: Annotated[bool, typer.Option("--exit", help="End after the story instead of serving on.")] = False,
) -> None:
    """Start a service, load ratings, train, recommend, and show what one more rating changes."""
    from app.demo.run import demo as run_demo

    raise typer.Exit(run_demo(ratings, items, data_dir, port, exit_after))


@app.command()
def migrate(
    first_key: Annotated[
        Path | None, typer.Option(help="Where there is no API key yet, make one for an admin and write it here.")
    ] = None,
) -> None:
    """Bring the database schema up to date."""
    from app.api_keys.commands import make_first_key

    with _database(is_made=True, is_migrated=True) as (database, _):
        console.print(f"the schema of {database.engine.url.render_as_string()} is current", soft_wrap=True)
        if first_key and (made := make_first_key(database, first_key)):
            console.print(f"API key {made.row.name!r} ({made.row.prefix}) is in {first_key}", soft_wrap=True)


@app.command()
def doctor() -> None:
    """Look at settings, database, versions, caches, clocks, disk and trainer, and say what to do; 1 if any is ill."""
    from app.doctor import examine

    style = {"ok": "green", "warning": "yellow", "problem": "red"}
    n_problems = 0
    for found in examine():
        n_problems += found.verdict == "problem"
        line = f"{found.verdict:<8} {found.subject}: {found.told}" + (f"; {found.advice}" if found.advice else "")
        console.print(line, style=style[found.verdict], markup=False, highlight=False, soft_wrap=True)
    if n_problems:
        raise typer.Exit(1)


@app.command()
def precompile() -> None:
    """Compile the kernels of serving and training now, so that no process has to do it later."""
    from app.worker import precompile as precompile_kernels

    precompile_kernels(_settings())


@app.command("import")
def import_ratings(
    file: File,
    user_column: Column = None,
    item_column: Column = None,
    value_column: Column = None,
    rated_at_column: Column = None,
    file_format: FormatOption = "auto",
    encoding: EncodingOption = "utf-8",
) -> None:
    """Import ratings: CSV, tabs, `::` or NDJSON, with or without a header, gzip or not."""
    from app.ratings import bulk_import

    options = bulk_import.ImportOptions(file_format, encoding, user_column, item_column, value_column, rated_at_column)
    with _database(is_made=True) as (database, settings):
        _import(file, lambda progress: bulk_import.begin_import(database, settings, options, progress), "ratings")


@app.command("import-items")
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
    with _database(is_made=True) as (database, settings):
        _import(file, lambda progress: bulk_import.begin_import(database, settings, options, progress), "items")


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to; .csv or .ndjson; - writes NDJSON.", allow_dash=True)],
) -> None:
    """Export all ratings in a form that `palate import` reads."""
    from app.ratings.export import export as export_lines

    with _database() as (database, _), database.read() as connection, _opened_to_write(file) as out:
        for block in export_lines(connection, "csv" if file.suffix == ".csv" else "ndjson"):
            out.write(block)


@app.command()
def recommend(
    users: Annotated[list[str] | None, typer.Argument(help="Ids of users.", show_default=False)] = None,
    out: Annotated[Path, typer.Option(help="Where to; .parquet, or CSV.")] = Path("recommendations.csv"),
    everybody: Annotated[bool, typer.Option("--all", help="For every user there is.")] = False,
    n: Annotated[int, typer.Option(min=1, max=1000, help="Items per user.")] = 10,
    min_ratings: Annotated[int, typer.Option(min=0, help="Leave out items with fewer ratings.")] = 0,
    category: Annotated[
        list[str] | None, typer.Option(help="Only items in any of these categories; repeat for several.")
    ] = None,
) -> None:
    """Write the best items for some users, or for everybody, to a table: CSV or Parquet."""
    from app.recommendations import batch_export
    from app.recommendations.dispatch import Recommender
    from app.recommendations.schemas import Filter, Wish
    from app.registry.live import LiveModel

    if everybody == bool(users):
        raise Failed("say for whom: ids of users, or --all", 2)
    wish = Wish(n=n, filter=Filter(any_of=tuple(category or ()), min_ratings=min_ratings))
    with _database() as (database, settings), _bars() as progress:
        live = LiveModel(database, settings)
        live.refresh()
        recommender = Recommender(database, live, settings)
        bar = progress.add_task("users", total=len(users) if users else batch_export.count_users(database), told="")
        wanted = users or batch_export.everybody(database)
        try:
            n_lines = batch_export.write_lists(recommender, wanted, wish, out, lambda more: progress.advance(bar, more))
        except batch_export.ParquetIsMissing as missing:
            raise Failed(str(missing)) from missing
        finally:
            recommender.close()
    console.print(f"{n_lines:,} lines in {out}", highlight=False, soft_wrap=True)


@app.command()
def digest() -> None:
    """Print a fingerprint of all ratings: two services with the same ratings print the same one."""
    from app.ratings.bulk_read import hold_snapshot
    from app.ratings.export import ratings_digest

    with _database() as (database, _), database.read() as connection:
        hold_snapshot(connection)
        console.print(ratings_digest(connection), highlight=False, soft_wrap=True)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The archive to write; one that is there is replaced.")],
) -> None:
    """Write everything (ratings, items, runs, versions) into one archive, while the service runs."""
    from app.backup.backup import back_up

    with _database() as (database, settings):
        made = back_up(database, settings, file)
    _print_kept("backed up", made, made.problems)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="An archive of `palate backup`, of either kind of database.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of everything that is there.")
    ] = False,
    keep_keys: Annotated[
        bool, typer.Option("--keep-keys", help="Keep the API keys of now instead of those of the archive.")
    ] = False,
) -> None:
    """Load an archive into an empty database of either kind that nobody uses; a damaged one changes nothing."""
    from app.backup.restore import leaving_nothing
    from app.backup.restore import restore as restore_from

    with leaving_nothing(_settings()), _database(is_made=True) as (database, settings):
        restored = restore_from(database, settings, file, replace=replace, keep_keys=keep_keys)
    _print_kept("restored", restored, restored.warnings)


@app.command()
def train(
    hyperparameter: Annotated[
        list[str] | None, typer.Option("--set", help="A hyperparameter, as n_factors=32; repeat for several.")
    ] = None,
    loss: LossOption = None,
    penalty: PenaltyOption = None,
    link: LinkOption = None,
    loss_parameter: LossParameterOption = None,
) -> None:
    """Train in the foreground and publish what passes the gate; Ctrl-C cancels."""
    from app.engine.hyperparameters import Hyperparameters, InvalidHyperparameter
    from app.training.wait_for_run import Hooks, train_now
    from app.worker import execute

    settings = _settings()
    try:
        chosen = Hyperparameters.from_dict(settings.hyperparameters | _assignments(hyperparameter or []))
    except InvalidHyperparameter as invalid:
        raise Failed(str(invalid), 2) from invalid
    minimised = _declared_loss(settings, loss, penalty, link, loss_parameter or [])
    with _database() as (database, settings), _epochs_shown() as show, _interrupted() as is_interrupted:
        hooks = Hooks(on_epoch=show, is_cancelled=is_interrupted, on_wait=console.print)
        run = train_now(database, settings, chosen, loss=minimised, work=execute, **hooks)
    _print_outcome(run)


@app.command()
def tune(
    strategy: Annotated[
        StrategyName, typer.Argument(help="grid, random, or tpe, which looks where earlier trials did well.")
    ] = StrategyName.tpe,
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space",
            help="What to try: learning_rate=0.01..0.1:log, n_epochs=10..40:step=5, n_factors=16,32,64, "
            "loss=squared,huber, loss.delta=0.3..3:log; repeat for several. Without it: rank, learning rate and "
            "penalties around their usual values.",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, max=1_000, help="Trials at most.")] = 40,
    folds: Annotated[
        int, typer.Option(min=1, max=10, help="Parts of which each is held out once; 1: holdout_fraction is.")
    ] = 3,
    pruning: Annotated[PruningName, typer.Option(help="Which trials end early.")] = PruningName.median,
    seed: Annotated[int, typer.Option(min=0, help="Same ratings, search and seed: same trials.")] = 0,
    hyperparameter: Annotated[
        list[str] | None, typer.Option("--set", help="What all trials share, as n_epochs=20; repeat for several.")
    ] = None,
    loss: LossOption = None,
    penalty: PenaltyOption = None,
    link: LinkOption = None,
    loss_parameter: LossParameterOption = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Train the best on every rating and publish it, if it passes the gate.")
    ] = False,
    plot: Annotated[Path, typer.Option(help="Where to write the plot of the trials.")] = Path("search.svg"),
    resume: Annotated[
        int | None, typer.Option(min=1, help="Go on with this unfinished search; what else is said is not used.")
    ] = None,
) -> None:
    """Search for better hyperparameters in the foreground; Ctrl-C cancels and keeps the trials."""
    from app.engine.search import InvalidSpace
    from app.training.wait_for_run import Hooks
    from app.tuning import wait_for_search
    from app.worker import execute

    wanted = None
    if resume is None:
        how = {"strategy": strategy.value, "pruning": pruning.value, "n_trials": trials, "n_folds": folds, "seed": seed}
        told_loss = loss, penalty, link, loss_parameter or []
        wanted = _wanted(space or [], hyperparameter or [], told_loss, {**how, "publish": publish})
    with _database() as (database, settings):
        try:
            asked = (
                wait_for_search.ask(database, wanted) if wanted else wait_for_search.unfinished(database, resume or 0)
            )
        except InvalidSpace as invalid:
            raise Failed(f"--space {invalid}", 2) from invalid
        with _trials_shown(asked.n_trials) as (show, show_epoch), _interrupted() as is_interrupted:
            hooks = Hooks(on_epoch=show_epoch, is_cancelled=is_interrupted, on_wait=console.print)
            search, done = wait_for_search.tune_now(database, settings, asked, execute, on_trials=show, **hooks)
    _print_search(search, done, plot)


@app.command()
def evaluate(
    version: Annotated[
        int | None, typer.Argument(help="Its number; the active one by default.", metavar="VERSION")
    ] = None,
) -> None:
    """Show how good a version is, for whom, and beside simple rules and the active version."""
    from app.registry import versions
    from app.training.evaluation.tables import tables

    with _database() as (database, _), database.read() as connection:
        shown = versions.get_active(connection) if version is None else versions.get(connection, version)
        active = versions.find_active(connection)
    for part in tables(shown, active):
        console.print(part)


@models_app.command("list")
def list_models() -> None:
    """List the published versions, newest first."""
    from app.registry import versions

    with _database() as (database, _), database.read() as connection:
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


@models_app.command("activate")
def activate_model(version: Annotated[int, typer.Argument(help="Its number.")]) -> None:
    """Answer from this version; every process follows within two seconds."""
    from app.registry import versions

    with _database() as (database, settings):
        versions.activate(database, settings.versions_dir, version)
    console.print(f"version {version} is active")


@models_app.command("delete")
def delete_model(version: Annotated[int, typer.Argument(help="Its number.")]) -> None:
    """Delete a version that is not active."""
    from app.registry import versions

    with _database() as (database, settings):
        versions.remove(database, settings.versions_dir, version)
    console.print(f"version {version} is deleted")


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Who uses it.")],
    scope: Annotated[
        list[ScopeName], typer.Option(help="What it may do; admin may do everything; repeat for several.")
    ],
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; never by default.")] = None,
    file: Annotated[Path | None, typer.Option(help="Where to write it instead of printing it.")] = None,
) -> None:
    """Make an API key and print it; it is stored nowhere, so nobody can look it up later."""
    from datetime import timedelta

    from app.api_keys.commands import make_key

    if file and file.exists():
        raise Failed(f"{file} is there already; name a new file for the key")
    with _database(is_made=True) as (database, _):
        made = make_key(database, name, [each.value for each in scope], timedelta(days) if days else None, file)
    where = f"is in {file}" if file else "is"
    complaints.print(f"API key {made.row.name!r} ({made.row.prefix}) {where}", soft_wrap=True)
    if file is None:
        console.print(made.token, markup=False, highlight=False, soft_wrap=True)


@keys_app.command("list")
def list_keys() -> None:
    """List the API keys, newest first."""
    from app.api_keys import keys
    from app.api_keys.commands import table_of

    with _database() as (database, _), database.read() as connection:
        console.print(table_of(keys.history(connection, limit=1000)))


@keys_app.command("revoke")
def revoke_key(name: Annotated[str, typer.Argument(help="Its name.")]) -> None:
    """Revoke an API key for good; every process refuses it within two seconds."""
    from app.api_keys import keys

    with _database() as (database, _), database.write() as connection:
        row = keys.revoke(connection, name, database.now(connection))
    console.print(f"API key {row.name!r} ({row.prefix}) is revoked")


def _refuse_open_door(database: Database, settings: Settings, host: str) -> None:
    from app.api_keys import keys
    from app.api_keys.guard import is_loopback

    if settings.auth == "off" or is_loopback(host):
        return
    with database.read() as connection:
        if not keys.is_any(connection):
            raise Failed(
                f"{host} is open to other machines and there are no API keys: make one with `palate keys create NAME "
                "--scope admin`, or say PALATE_AUTH=off to answer everybody who can connect",
                2,
            )


def _settings() -> Settings:
    try:
        return read_settings()
    except UnusableSettings as unusable:
        raise Failed(str(unusable), 2) from unusable


@contextmanager
def _database(*, is_made: bool = False, is_migrated: bool = False) -> Iterator[tuple[Database, Settings]]:
    """The database at its newest schema, until the command is done with it.

    Only commands that fill a database make one (`is_made`). An SQLite file is migrated by whoever opens it, a
    server only where that was asked for (`is_migrated`): other processes of another release may be using it.
    """
    import migrations
    from app.db.engine import open_database

    settings = _settings()
    if not is_made:
        _refuse_missing(settings)
    with _refusals_told():
        database = open_database(settings)
        try:
            if database.is_sqlite or is_migrated:
                migrations.upgrade(database, settings)
            elif not migrations.is_usable(database):
                raise Failed("the database schema is not current: run `palate migrate` first")
            yield database, settings
        finally:
            database.dispose()


def _refuse_missing(settings: Settings) -> None:
    """A mistyped folder must not look like a database that holds nothing."""
    from sqlalchemy import make_url

    url = make_url(settings.sqlalchemy_url)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        raise Failed(f"there is no database at {url.database}; `palate import` and `palate serve` make one")


@contextmanager
def _refusals_told() -> Iterator[None]:
    """What the service, the database or the file system refuses is a line here, not a traceback."""
    from alembic.util import CommandError
    from sqlalchemy.exc import SQLAlchemyError

    from app.errors import ServiceError

    try:
        yield
    except (ServiceError, CommandError) as error:
        raise Failed(str(error)) from error
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise Failed(f"the database: {reason}") from error
    except BrokenPipeError:
        raise  # `palate export - | head`: whoever read has seen enough, and typer ends without a word
    except OSError as error:
        raise Failed(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error


def _import(file: Path, begin: Callable[[OnProgress], LineImport[Any]], what: str) -> None:
    columns = (TextColumn(f"importing {what}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    is_interrupted = False
    with _opened_to_read(file) as source, bar as progress:
        size = None if str(file) == "-" else file.stat().st_size
        task = progress.add_task(what, total=size)
        running = begin(lambda seen: progress.update(task, completed=seen.n_bytes))
        try:
            report = _fed(running, source)
        except KeyboardInterrupt:
            report, is_interrupted = running.break_off("stopped by Ctrl-C; what is counted above is saved"), True
    _print_report(report, what)
    if report.stopped_because:
        raise Failed(report.stopped_because, _INTERRUPTED if is_interrupted else 1)


def _fed(running: LineImport[Any], source: BinaryIO) -> ImportReport:
    """Ctrl-C ends the reading at once, but waits for a block that is being saved, so that what is saved is counted."""
    from app.imports.line_import import blocks_of

    for block in blocks_of(source):
        with _interrupted() as is_interrupted:
            running.feed(block)
        if is_interrupted():
            raise KeyboardInterrupt
        if running.is_stopped:
            break
    with _interrupted():
        return running.finish()


def _print_report(report: ImportReport, what: str) -> None:
    console.print(
        f"{report.created:,} {what} created, {report.updated:,} updated, {report.unchanged:,} unchanged, "
        f"{report.bad:,} bad lines; revision {report.revision}",
        soft_wrap=True,
    )
    for bad in report.bad_lines:
        console.print(f"  line {bad.line}: {bad.reason}: {bad.text}", markup=False, highlight=False, soft_wrap=True)


def _print_kept(done: str, kept: Backup | Restored, warnings: Sequence[str]) -> None:
    told = f"{done} {kept.n_ratings:,} ratings and {kept.n_versions} versions as of revision {kept.revision}"
    console.print(f"{told}; digest {kept.digest}", highlight=False, soft_wrap=True)
    for warning in warnings:
        complaints.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _opened_to_read(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        with file.open("rb") as source:
            yield source
    except OSError as error:
        raise Failed(f"{file}: {error.strerror}") from error


@contextmanager
def _opened_to_write(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdout.buffer
        return
    with file.open("wb") as out:
        yield out


def _declared_loss(
    settings: Settings, error: str | None, penalty: str | None, link: str | None, numbers: list[str]
) -> Loss:
    """The default loss, or another one where any of it is told; what is not told of that is the catalog's."""
    from app.engine.losses.declare import declare
    from app.engine.losses.grammar import InvalidLoss

    parameters = _assignments(numbers, "--loss-parameter")
    if error is None and penalty is None and link is None and not parameters:
        return settings.loss
    default = settings.training
    if error is None:
        link, parameters = link or default.link, {**default.loss_parameters, **parameters}
    ends = (settings.rating.min, settings.rating.max)
    try:
        return declare(
            error or default.loss, penalty=penalty or "l2", link=link, parameters=parameters, rating_range=ends
        )
    except InvalidLoss as invalid:
        raise Failed(f"the loss cannot be: {invalid}", 2) from invalid


def _assignments(texts: list[str], option: str = "--set") -> dict[str, Any]:
    """`n_factors=32` as {"n_factors": 32}; what is no number stays text."""
    import json

    given: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise Failed(f"{option} {text}: write NAME=VALUE", 2)
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    return given


def _wanted(space: list[str], hyperparameters: list[str], loss: _ToldLoss, how: dict[str, Any]) -> Wanted:
    import dataclasses

    from app.engine.hyperparameters import Hyperparameters, InvalidHyperparameter
    from app.engine.search import DEFAULT_SPACE, InvalidSpace
    from app.tuning.space_text import read_space
    from app.tuning.store import Wanted

    settings = _settings()
    try:
        chosen = Hyperparameters.from_dict(settings.hyperparameters | _assignments(hyperparameters))
        minimised = _declared_loss(settings, *loss)
        base = dataclasses.replace(settings.recipe, hyperparameters=chosen, loss=minimised)
        return Wanted(space=read_space(space) or DEFAULT_SPACE, base=base, defaults=settings.recipe, **how)
    except InvalidHyperparameter as invalid:
        raise Failed(str(invalid), 2) from invalid
    except InvalidSpace as invalid:
        raise Failed(f"--space {invalid}", 2) from invalid


def _bars() -> Progress:
    columns = (TextColumn("{task.description:<9}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeElapsedColumn())
    return Progress(*columns, console=console)


@contextmanager
def _epochs_shown() -> Iterator[Callable[[Epoch], None]]:
    """A bar per phase, with the errors and the speed of the latest epoch."""
    with _bars() as progress:
        yield _epochs_in(progress)


def _epochs_in(progress: Progress) -> Callable[[Epoch], None]:
    bars: dict[str, Any] = {}

    def show(epoch: Epoch) -> None:
        report = epoch.report
        if epoch.phase not in bars:
            names = {"fit": "fit", "sample": "average", "final": "learn all", "resample": "average all"}
            bars[epoch.phase] = progress.add_task(names[epoch.phase], total=report.n_epochs, told="")
        holdout = "" if report.holdout_rmse is None else f"  hold-out {report.holdout_rmse:.4f}"
        step = "sweep" if epoch.phase in {"sample", "resample"} else "epoch"
        told = f"{step} {report.epoch:>3}  train {report.train_rmse:.4f}{holdout}"
        speed = f"  {report.ratings_per_second / 1e6:.1f} M ratings/s"
        progress.update(bars[epoch.phase], completed=report.epoch, told=told + speed)

    return show


@contextmanager
def _trials_shown(n_trials: int) -> Iterator[tuple[Callable[[Sequence[Trial]], None], Callable[[Epoch], None]]]:
    """A bar of the trials with the best so far, and one per phase of the training that may follow."""
    from app.engine.search import best_of

    with _bars() as progress:
        bar = progress.add_task("trials", total=n_trials, told="")

        best_before: Trial | None = None

        def show(trials: Sequence[Trial]) -> None:
            nonlocal best_before
            best = best_of(trials)
            told = f"  best {best.value:.4f}" if best else ""
            progress.update(bar, completed=len(trials), told=f"{len(trials)} of {n_trials}{told}")
            if best and best != best_before:
                line = f"trial {best.number:>3}  {best.value:.4f}  {_told(best.parameters)}"
                progress.console.print(line, highlight=False, soft_wrap=True)
            best_before = best

        yield show, _epochs_in(progress)


@contextmanager
def _interrupted() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; what runs is then ended in good order, not torn down in the middle."""
    import signal
    import threading

    pressed = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _print_outcome(run: RunRow) -> None:
    if run.status != "succeeded":
        raise Failed(f"run {run.id} {run.status}" + (f": {run.error}" if run.error else ""))
    rmse = run.metrics.get("holdout_rmse")
    told = "" if rmse is None else f", hold-out RMSE {rmse:.4f}"
    console.print(f"run {run.id} published version {run.version}: {run.n_ratings:,} ratings{told}")


def _print_search(search: SearchRun, trials: Sequence[Trial], plot: Path) -> None:
    """The five best trials, the plot's file, and what to do with the winner."""
    from app.engine.search import best_of
    from app.tuning.plot import draw_to_file
    from app.tuning.store import wanted_of

    if trials:
        _print_trials(trials)
        with _refusals_told():
            draw_to_file(plot, wanted_of(search).search().space, trials)
        console.print(f"the plot of {len(trials)} trials is in {plot}", soft_wrap=True)
    if search.status != "succeeded":
        raise Failed(f"search {search.id} {search.status}" + (f": {search.error}" if search.error else ""))
    best = best_of(trials)
    if search.version is not None:
        console.print(f"search {search.id} published version {search.version}")
    elif best:
        wanted = wanted_of(search)
        options = _options_of(wanted.base.with_values(best.parameters), wanted.defaults)
        console.print(f"to train it: palate train{options}", soft_wrap=True, markup=False, highlight=False)


def _options_of(chosen: Recipe, defaults: Recipe) -> str:
    """How `palate train` is told a recipe: what differs from the settings."""
    import shlex

    known = defaults.hyperparameters.to_dict()
    values = {name: value for name, value in chosen.hyperparameters.to_dict().items() if value != known[name]}
    words = [word for name, value in values.items() for word in ("--set", f"{name}={_json(value)}")]
    if chosen.loss != defaults.loss:
        words += _loss_options(chosen)
    return "".join(f" {shlex.quote(word)}" for word in words)


def _loss_options(chosen: Recipe) -> list[str]:
    from app.engine.losses.base import L2
    from app.engine.losses.catalog import BY_NAME

    loss, told = chosen.loss, chosen.told_loss
    usual_link = BY_NAME[told].link if told in BY_NAME else "identity"
    words = ["--loss", told]
    words += ["--penalty", loss.penalty] if loss.penalty != L2 else []
    words += ["--link", loss.link] if loss.link != usual_link else []
    for name, value in loss.parameters:
        words += ["--loss-parameter", f"{name}={value!r}"]
    return words


def _json(value: Any) -> str:
    """As `--set` reads it."""
    import json

    return value if isinstance(value, str) else json.dumps(value)


def _print_trials(trials: Sequence[Trial]) -> None:
    complete = sorted((trial for trial in trials if trial.status == "complete"), key=lambda trial: trial.value or 0.0)
    table = Table("trial", "hold-out RMSE", "seconds", "parameters")
    for trial in complete[:5]:
        table.add_row(str(trial.number), f"{trial.value:.4f}", f"{trial.seconds:.1f}", _told(trial.parameters))
    counts = {status: sum(trial.status == status for trial in trials) for status in ("pruned", "failed")}
    table.caption = f"the best of {len(trials)} trials, {counts['pruned']} pruned, {counts['failed']} failed"
    console.print(table)


def _told(parameters: Mapping[str, Any]) -> str:
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in parameters.items()
    )


def main() -> None:
    """Entry point of the `palate` script."""
    app(prog_name="palate")


if __name__ == "__main__":
    main()
