"""Commands that train a version and show how good it is."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.database import opened_database
from app.cli.progress import epoch_bars, task_progress
from app.cli.recipe_options import LinkOption, LossOption, LossParameterOption, PenaltyOption, read_recipe
from app.cli.terminal import CommandFailed, console, interruptible


def train(
    hyperparameter: Annotated[
        list[str] | None, typer.Option("--set", help="A hyperparameter, such as n_factors=32; repeat for several.")
    ] = None,
    loss: LossOption = None,
    penalty: PenaltyOption = None,
    link: LinkOption = None,
    loss_parameter: LossParameterOption = None,
) -> None:
    """Train in the foreground and publish the version if it passes the gate; Ctrl-C cancels."""
    from app.training.wait_for_run import Hooks, train_now
    from app.worker import execute

    with opened_database() as (database, settings), task_progress() as progress, interruptible() as is_cancelled:
        recipe = read_recipe(settings, hyperparameter, loss, penalty, link, loss_parameter)
        hooks = Hooks(on_epoch=epoch_bars(progress), is_cancelled=is_cancelled, on_wait=console.print)
        run = train_now(database, settings, recipe.hyperparameters, loss=recipe.loss, work=execute, **hooks)
    if run.status != "succeeded":
        raise CommandFailed(f"run {run.id} {run.status}" + (f": {run.error}" if run.error else ""))
    rmse = run.metrics.get("holdout_rmse")
    error = "" if rmse is None else f", hold-out RMSE {rmse:.4f}"
    console.print(f"run {run.id} published version {run.version}: {run.n_ratings:,} ratings{error}")


def evaluate(
    version: Annotated[
        int | None, typer.Argument(help="Version number; the active version by default.", metavar="VERSION")
    ] = None,
) -> None:
    """Show the accuracy of a version by user and item activity, compared with baselines and the active version."""
    from app.registry import versions
    from app.training.evaluation.tables import tables

    with opened_database() as (database, _), database.read() as connection:
        shown = versions.get_active(connection) if version is None else versions.get(connection, version)
        active = versions.find_active(connection)
    for table in tables(shown, active):
        console.print(table)
