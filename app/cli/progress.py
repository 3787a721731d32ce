"""Progress bars of epochs, trials and users."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from app.cli.terminal import console

if TYPE_CHECKING:
    from app.engine.search.trials import Trial
    from app.training.queue import Epoch

_PHASES = {"fit": "fit", "sample": "average", "final": "learn all", "resample": "average all"}


def task_progress() -> Progress:
    """A bar per task, each with a `detail` text."""
    detail = TextColumn("{task.fields[detail]}")
    return Progress(TextColumn("{task.description:<9}"), BarColumn(), detail, TimeElapsedColumn(), console=console)


def epoch_bars(progress: Progress) -> Callable[[Epoch], None]:
    """A bar per phase, with the errors and the speed of the latest epoch."""
    bars: dict[str, TaskID] = {}

    def show(epoch: Epoch) -> None:
        report = epoch.report
        if epoch.phase not in bars:
            bars[epoch.phase] = progress.add_task(_PHASES[epoch.phase], total=report.n_epochs, detail="")
        holdout = "" if report.holdout_rmse is None else f"  hold-out {report.holdout_rmse:.4f}"
        step = "sweep" if epoch.phase in {"sample", "resample"} else "epoch"
        errors = f"{step} {report.epoch:>3}  train {report.train_rmse:.4f}{holdout}"
        speed = f"  {report.ratings_per_second / 1e6:.1f} M ratings/s"
        progress.update(bars[epoch.phase], completed=report.epoch, detail=errors + speed)

    return show


def trial_bar(progress: Progress, n_trials: int) -> Callable[[Sequence[Trial]], None]:
    """A bar of the trials, and a line whenever there is a new best one."""
    from app.engine.search.trials import best_of

    bar = progress.add_task("trials", total=n_trials, detail="")
    best_before: Trial | None = None

    def show(trials: Sequence[Trial]) -> None:
        nonlocal best_before
        best = best_of(trials)
        best_value = f"  best {best.value:.4f}" if best else ""
        progress.update(bar, completed=len(trials), detail=f"{len(trials)} of {n_trials}{best_value}")
        if best and best != best_before:
            console.print(f"trial {best.number:>3}  {best.value:.4f}  {parameters_text(best.parameters)}")
        best_before = best

    return show


def parameters_text(parameters: Mapping[str, Any]) -> str:
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in parameters.items()
    )
