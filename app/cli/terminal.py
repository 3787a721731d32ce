"""What a command prints, how it fails, and what Ctrl-C does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import typer
from rich.console import Console

console = Console()
error_console = Console(stderr=True)

INTERRUPTED = 130  # the exit code that shells report for a command ended by Ctrl-C
USAGE_ERROR = 2


class CommandFailed(typer.Exit):
    """Ends the command after printing why, in one line on standard error."""

    def __init__(self, reason: str, code: int = 1) -> None:
        error_console.print(reason, style="red", markup=False, highlight=False, soft_wrap=True)
        super().__init__(code)


@contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Turn errors of the service, the database and the file system into CommandFailed, without a traceback."""
    from alembic.util import CommandError
    from sqlalchemy.exc import SQLAlchemyError

    from app.errors import ServiceError

    try:
        yield
    except (ServiceError, CommandError) as error:
        raise CommandFailed(str(error)) from error
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise CommandFailed(f"the database: {reason}") from error
    except BrokenPipeError:
        raise  # `palate export - | head`: typer exits silently
    except OSError as error:
        raise CommandFailed(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C only sets a flag, which the returned function reads, so that work ends in good order."""
    import signal
    import threading

    pressed = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        error_console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def opened_for_reading(file: Path) -> Iterator[BinaryIO]:
    """The file, or standard input for `-`."""
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    with file.open("rb") as source:
        yield source


@contextmanager
def opened_for_writing(file: Path) -> Iterator[BinaryIO]:
    """The file, or standard output for `-`."""
    if str(file) == "-":
        yield sys.stdout.buffer
        return
    with file.open("wb") as out:
        yield out
