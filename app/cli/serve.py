"""Commands that run processes, and commands that prepare a machine for them."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from app.cli.database import opened_database
from app.cli.terminal import USAGE_ERROR, CommandFailed, console
from app.settings import read_settings


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="API processes.")] = 1,
    access_log: Annotated[
        bool, typer.Option(help="Log every request; this lowers throughput by about a quarter.")
    ] = False,
) -> None:
    """Start the service, and its trainer unless PALATE_TRAINER=external."""
    import uvicorn

    from app.api_keys import keys
    from app.api_keys.guard import is_loopback
    from app.logs import set_up_logs
    from app.metrics.multiprocess import shared_folder

    with opened_database(may_create=True) as (database, settings), database.read() as connection:
        is_protected = settings.auth == "off" or is_loopback(host) or keys.is_any(connection)
    if not is_protected:
        raise CommandFailed(
            f"{host} is open to other machines and there are no API keys: create one with `palate keys create "
            "NAME --scope admin`, or set PALATE_AUTH=off to answer every client",
            USAGE_ERROR,
        )
    if access_log:
        os.environ["PALATE_LOG_REQUESTS"] = "true"
    set_up_logs(settings, "service")
    with shared_folder() if workers > 1 else nullcontext():
        if workers > 1 and sys.platform == "linux":  # elsewhere system libraries do not survive a fork
            from app.api_processes import fork_workers

            fork_workers()
        uvicorn.run(
            "app.main:app",
            host=host,
            port=port,
            http="app.http.body_limits:BoundedHttp",
            workers=workers,
            log_config=None,  # uvicorn's log lines get our format
            access_log=False,  # the service logs requests itself and knows their route
            timeout_keep_alive=75,  # longer than clients and proxies: they must be the first to close a connection
            timeout_graceful_shutdown=20,
        )


def worker() -> None:
    """Run a trainer process, for services started with PALATE_TRAINER=external."""
    from app.worker import main as run_worker

    settings = read_settings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    raise typer.Exit(run_worker(settings))


def demo(
    ratings: Annotated[Path | None, typer.Option(help="Your own ratings instead of the sample.")] = None,
    items: Annotated[
        Path | None, typer.Option(help="File of titles; by default movies.csv in the same folder.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Data folder; a temporary one by default.")] = None,
    port: Annotated[int, typer.Option(help="Port of the service; 0 chooses a free one.")] = 0,
    exit_after: Annotated[
        bool, typer.Option("--exit", help="Stop the service at the end instead of leaving it running.")
    ] = False,
) -> None:
    """Start a service, load ratings, train, recommend, and show what one more rating changes."""
    from app.demo.run import demo as run_demo

    raise typer.Exit(run_demo(ratings, items, data_dir, port, exit_after))


def migrate(
    first_key: Annotated[
        Path | None,
        typer.Option(help="If no API key exists yet, create one with the scope admin and write it to this file."),
    ] = None,
) -> None:
    """Bring the database schema up to date."""
    from app.api_keys.commands import make_first_key

    with opened_database(may_create=True, may_migrate=True) as (database, _):
        console.print(f"the schema of {database.engine.url.render_as_string()} is current")
        if first_key and (made := make_first_key(database, first_key)):
            console.print(f"API key {made.row.name!r} ({made.row.prefix}) is in {first_key}")


def doctor() -> None:
    """Check settings, database, versions, caches, clocks, disk and trainer; exits 1 if a check fails."""
    from app.doctor import run_checks

    style = {"ok": "green", "warning": "yellow", "problem": "red"}
    n_problems = 0
    for finding in run_checks():
        n_problems += finding.verdict == "problem"
        line = f"{finding.verdict:<8} {finding.subject}: {finding.message}"
        line += f"; {finding.advice}" if finding.advice else ""
        console.print(line, style=style[finding.verdict])
    if n_problems:
        raise typer.Exit(1)


def precompile() -> None:
    """Compile the kernels of serving and training in advance, so that no process has to do it later."""
    from app.worker import precompile as precompile_kernels

    precompile_kernels(read_settings())
