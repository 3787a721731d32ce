"""The command that searches for better hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from app.cli.database import opened_database, settings_or_exit
from app.cli.progress import parameters_text, trial_bars
from app.cli.recipe_options import (
    LinkOption,
    LossOption,
    LossOptions,
    LossParameterOption,
    PenaltyOption,
    options_of,
    read_hyperparameters,
    read_loss,
)
from app.cli.terminal import USAGE_ERROR, CommandFailed, console, errors_as_one_line, interruptible

if TYPE_CHECKING:
    from app.engine.search.trials import Trial
    from app.tuning.store import SearchRun, SearchSpec


class StrategyName(StrEnum):
    """`Strategy` of the engine as an enum: typer cannot read a type that is imported only for type checking."""

    grid = "grid"
    random = "random"
    tpe = "tpe"


class PruningName(StrEnum):
    """`Pruning` of the engine."""

    none = "none"
    median = "median"
    halving = "halving"


def tune(
    strategy: Annotated[
        StrategyName, typer.Argument(help="grid, random, or tpe, which samples near the best trials so far.")
    ] = StrategyName.tpe,
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space",
            help="Values to try: learning_rate=0.01..0.1:log, n_epochs=10..40:step=5, n_factors=16,32,64, "
            "loss=squared,huber, loss.delta=0.3..3:log; repeat for several. By default: rank, learning rate and "
            "penalties around their usual values.",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, max=1_000, help="Largest number of trials.")] = 40,
    folds: Annotated[
        int, typer.Option(min=1, max=10, help="Folds of the cross-validation; 1: one hold-out of holdout_fraction.")
    ] = 3,
    pruning: Annotated[PruningName, typer.Option(help="Rule that ends bad trials early.")] = PruningName.median,
    seed: Annotated[int, typer.Option(min=0, help="The same ratings, search and seed give the same trials.")] = 0,
    hyperparameter: Annotated[
        list[str] | None, typer.Option("--set", help="A value for all trials, such as n_epochs=20; repeat for several.")
    ] = None,
    loss: LossOption = None,
    penalty: PenaltyOption = None,
    link: LinkOption = None,
    loss_parameter: LossParameterOption = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Train the best on all ratings and publish it if it passes the gate.")
    ] = False,
    plot: Annotated[Path, typer.Option(help="File for the plot of the trials.")] = Path("search.svg"),
    resume: Annotated[
        int | None, typer.Option(min=1, help="Continue this unfinished search; other options are ignored.")
    ] = None,
) -> None:
    """Search for better hyperparameters in the foreground; Ctrl-C cancels and keeps the trials."""
    from app.engine.search.space import InvalidSpace
    from app.training.wait_for_run import Hooks
    from app.tuning import wait_for_search
    from app.worker import execute

    spec = None
    if resume is None:
        how = {"strategy": strategy.value, "pruning": pruning.value, "n_trials": trials, "n_folds": folds, "seed": seed}
        loss_options = LossOptions(loss, penalty, link, loss_parameter or [])
        spec = _search_spec(space or [], hyperparameter or [], loss_options, {**how, "publish": publish})
    with opened_database() as (database, settings):
        try:
            if spec:
                search = wait_for_search.enqueue(database, spec)
            else:
                search = wait_for_search.get_unfinished(database, resume or 0)
        except InvalidSpace as invalid:
            raise CommandFailed(f"--space {invalid}", USAGE_ERROR) from invalid
        with trial_bars(search.n_trials) as (on_trials, on_epoch), interruptible() as is_cancelled:
            hooks = Hooks(on_epoch=on_epoch, is_cancelled=is_cancelled, on_wait=console.print)
            search, done = wait_for_search.wait_for_search(
                database, settings, search, execute, on_trials=on_trials, **hooks
            )
    _print_search(search, done, plot)


def _search_spec(space: list[str], hyperparameters: list[str], loss: LossOptions, how: dict[str, Any]) -> SearchSpec:
    import dataclasses

    from app.engine.search.space import DEFAULT_SPACE, InvalidSpace
    from app.tuning.space_text import read_space
    from app.tuning.store import SearchSpec

    settings = settings_or_exit()
    base = dataclasses.replace(
        settings.recipe,
        hyperparameters=read_hyperparameters(settings, hyperparameters),
        loss=read_loss(settings, loss),
    )
    try:
        return SearchSpec(space=read_space(space) or DEFAULT_SPACE, base=base, defaults=settings.recipe, **how)
    except InvalidSpace as invalid:
        raise CommandFailed(f"--space {invalid}", USAGE_ERROR) from invalid


def _print_search(search: SearchRun, trials: Sequence[Trial], plot_file: Path) -> None:
    """The five best trials, the plot's file, and how to train the best."""
    from app.engine.search.trials import best_of
    from app.tuning.plot import plot
    from app.tuning.store import spec_of

    if trials:
        _print_trials(trials)
        with errors_as_one_line():
            plot_file.write_text(plot(spec_of(search).search().space, trials), encoding="utf-8")
        console.print(f"the plot of {len(trials)} trials is in {plot_file}", soft_wrap=True)
    if search.status != "succeeded":
        raise CommandFailed(f"search {search.id} {search.status}" + (f": {search.error}" if search.error else ""))
    best = best_of(trials)
    if search.version is not None:
        console.print(f"search {search.id} published version {search.version}")
    elif best:
        spec = spec_of(search)
        options = options_of(spec.base.with_values(best.parameters), spec.defaults)
        console.print(f"to train it: palate train{options}", soft_wrap=True, markup=False, highlight=False)


def _print_trials(trials: Sequence[Trial]) -> None:
    complete = sorted((trial for trial in trials if trial.status == "complete"), key=lambda trial: trial.value or 0.0)
    table = Table("trial", "hold-out RMSE", "seconds", "parameters")
    for trial in complete[:5]:
        parameters = parameters_text(trial.parameters)
        table.add_row(str(trial.number), f"{trial.value:.4f}", f"{trial.seconds:.1f}", parameters)
    counts = {status: sum(trial.status == status for trial in trials) for status in ("pruned", "failed")}
    table.caption = f"the best of {len(trials)} trials, {counts['pruned']} pruned, {counts['failed']} failed"
    console.print(table)
