"""The command that searches for better hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from app.cli.database import opened_database
from app.cli.progress import epoch_bars, parameters_text, task_progress, trial_bar
from app.cli.recipe_options import LinkOption, LossOption, LossParameterOption, PenaltyOption, options_of, read_recipe
from app.cli.terminal import CommandFailed, console, interruptible

if TYPE_CHECKING:
    from app.engine.search.trials import Trial
    from app.tuning.store import SearchRun


def tune(
    strategy: Annotated[
        Literal["grid", "random", "tpe"],
        typer.Argument(help="grid, random, or tpe, which samples near the best trials so far."),
    ] = "tpe",
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space",
            help="Values to try: learning_rate=0.01..0.1:log, n_epochs=10..40:step=5, n_factors=16,32,64, "
            "loss=squared,huber, loss.delta=0.3..3:log; repeat for several. By default: number of factors, learning "
            "rate and penalties around their default values.",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, max=1_000, help="Maximum number of trials.")] = 40,
    folds: Annotated[
        int, typer.Option(min=1, max=10, help="Folds of the cross-validation; 1: one hold-out of holdout_fraction.")
    ] = 3,
    pruning: Annotated[
        Literal["none", "median", "halving"], typer.Option(help="Rule that ends bad trials early.")
    ] = "median",
    seed: Annotated[int, typer.Option(min=0, help="The same ratings, search and seed give the same trials.")] = 0,
    hyperparameter: Annotated[
        list[str] | None, typer.Option("--set", help="A value for all trials, such as n_epochs=20; repeat for several.")
    ] = None,
    loss: LossOption = None,
    penalty: PenaltyOption = None,
    link: LinkOption = None,
    loss_parameter: LossParameterOption = None,
    publish: Annotated[
        bool,
        typer.Option("--publish", help="Train the best trial on all ratings and publish it if it passes the gate."),
    ] = False,
    plot: Annotated[Path, typer.Option(help="File for the plot of the trials.")] = Path("search.svg"),
    resume: Annotated[
        int | None, typer.Option(min=1, help="Continue this unfinished search; other options are ignored.")
    ] = None,
) -> None:
    """Search for better hyperparameters in the foreground; Ctrl-C cancels and keeps the trials."""
    from app.engine.search.space import DEFAULT_SPACE
    from app.training.wait_for_run import Hooks
    from app.tuning import wait_for_search
    from app.tuning.space_text import read_space
    from app.tuning.store import SearchSpec
    from app.worker import execute

    with opened_database() as (database, settings):
        if resume is not None:
            search = wait_for_search.get_unfinished(database, resume)
        else:
            spec = SearchSpec(
                space=read_space(space or []) or DEFAULT_SPACE,
                base=read_recipe(settings, hyperparameter, loss, penalty, link, loss_parameter),
                defaults=settings.recipe,
                strategy=strategy,
                pruning=pruning,
                n_trials=trials,
                n_folds=folds,
                seed=seed,
                publish=publish,
            )
            search = wait_for_search.enqueue(database, spec)
        with task_progress() as progress, interruptible() as is_cancelled:
            on_trials = trial_bar(progress, search.n_trials)
            hooks = Hooks(on_epoch=epoch_bars(progress), is_cancelled=is_cancelled, on_wait=console.print)
            search, done = wait_for_search.wait_for_search(
                database, settings, search, execute, on_trials=on_trials, **hooks
            )
    _print_search(search, done, plot)


def _print_search(search: SearchRun, trials: Sequence[Trial], plot_file: Path) -> None:
    """The five best trials, the plot's file, and how to train the best."""
    from app.engine.search.trials import best_of
    from app.tuning.plot import plot
    from app.tuning.store import spec_of

    if trials:
        _print_trials(trials)
        plot_file.write_text(plot(spec_of(search).search().space, trials), encoding="utf-8")
        console.print(f"the plot of {len(trials)} trials is in {plot_file}")
    if search.status != "succeeded":
        raise CommandFailed(f"search {search.id} {search.status}" + (f": {search.error}" if search.error else ""))
    best = best_of(trials)
    if search.version is not None:
        console.print(f"search {search.id} published version {search.version}")
    elif best:
        spec = spec_of(search)
        options = options_of(spec.base.with_values(best.parameters), spec.defaults)
        console.print(f"to train it: palate train{options}")


def _print_trials(trials: Sequence[Trial]) -> None:
    complete = sorted((trial for trial in trials if trial.status == "complete"), key=lambda trial: trial.value or 0.0)
    table = Table("trial", "hold-out RMSE", "seconds", "parameters")
    for trial in complete[:5]:
        parameters = parameters_text(trial.parameters)
        table.add_row(str(trial.number), f"{trial.value:.4f}", f"{trial.seconds:.1f}", parameters)
    counts = {status: sum(trial.status == status for trial in trials) for status in ("pruned", "failed")}
    table.caption = f"the best of {len(trials)} trials, {counts['pruned']} pruned, {counts['failed']} failed"
    console.print(table)
