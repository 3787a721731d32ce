"""What a command prints, how it fails, and what Ctrl-C does."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Literal

import typer
from rich.console import Console
from typer.core import TyperGroup

console = Console(markup=False, highlight=False, soft_wrap=True)
error_console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)

INTERRUPTED = 130  # the exit code that shells report for a command ended by Ctrl-C
USAGE_ERROR = 2


class CommandFailed(typer.Exit):
    """Ends the command after printing why, in one line on standard error."""

    def __init__(self, reason: str, code: int = 1) -> None:
        error_console.print(reason, style="red")
        super().__init__(code)


class Commands(TyperGroup):
    """Commands whose errors of the settings, the service, the database and the file system become one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if failure := _reason_and_code(error):
                raise CommandFailed(*failure) from error
            raise


def _reason_and_code(error: Exception) -> tuple[str, int] | None:
    """The message and the exit code of an expected error; None for others, and for a broken pipe: it ends silently."""
    from alembic.util import CommandError
    from sqlalchemy.exc import SQLAlchemyError

    from app.engine.hyperparameters import InvalidHyperparameter
    from app.engine.losses.grammar import InvalidLoss
    from app.engine.search.space import InvalidSpace
    from app.errors import ServiceError
    from app.recommendations.batch_export import ParquetIsMissing
    from app.settings import UnusableSettings

    match error:
        case UnusableSettings() | InvalidHyperparameter():
            return str(error), USAGE_ERROR
        case InvalidLoss():
            return f"invalid loss: {error}", USAGE_ERROR
        case InvalidSpace():
            return f"--space {error}", USAGE_ERROR
        case ServiceError() | CommandError() | ParquetIsMissing():
            return str(error), 1
        case SQLAlchemyError():
            return "the database: " + " ".join(str(getattr(error, "orig", None) or error).split()), 1
        case OSError() if not isinstance(error, BrokenPipeError):
            return f"{error.filename}: {error.strerror}" if error.filename else str(error), 1
    return None


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C only sets a flag, which the returned function reads, so that work ends in good order."""
    pressed = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def opened(file: Path, mode: Literal["rb", "wb"]) -> AbstractContextManager[BinaryIO]:
    """The file, or for `-` standard input or output."""
    if str(file) == "-":
        return nullcontext((sys.stdin if mode == "rb" else sys.stdout).buffer)
    return file.open(mode)
