"""The whole demo: start the service, run the steps of `story`, serve until Ctrl-C, stop the service."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from rich.console import Console
from rich.markup import escape

from app.demo import story
from app.demo.service_client import ServiceRefused
from app.demo.service_process import ServiceDidNotStart, running_service

# The demo starts its own training runs, and never uses a database that is configured for something else.
_ENVIRONMENT = {
    "PALATE_RETRAIN_ENABLED": "false",
    "PALATE_TRAINER": "embedded",
    "PALATE_DATABASE_URL": "",
    "PALATE_LOG_LEVEL": "warning",
}


_SAMPLE_SCALE = {"PALATE_RATING_MIN": "0.5", "PALATE_RATING_MAX": "5", "PALATE_RATING_STEP": "0.5"}
_INTERRUPTED = 130  # the exit code that shells report for a command ended by Ctrl-C


class ServiceEnded(Exception):
    """The service ended by itself."""


def demo(ratings: Path | None, items: Path | None, data_dir: Path | None, port: int, exit_after: bool) -> int:
    """The exit code: 0, 1 with a message if anything failed, or 130 if interrupted before the end.

    `port` 0 takes a free one. Without `data_dir` the data is in a temporary folder that is removed at the end.
    """
    console = Console(highlight=False)
    try:
        _check_readable(ratings, items)
        with _stop_on_sigterm(), _folder(data_dir) as folder:
            _demo(ratings, items, folder, port, exit_after, console)
    except KeyboardInterrupt:
        console.print("\nstopped")
        return _INTERRUPTED
    except (story.StoryFailed, ServiceRefused, ServiceDidNotStart, ServiceEnded, httpx.HTTPError, OSError) as error:
        console.print(f"[bold red]the demo failed:[/] {escape(str(error) or type(error).__name__)}", soft_wrap=True)
        return 1
    return 0


def _demo(
    ratings: Path | None, items: Path | None, folder: Path, port: int, exit_after: bool, console: Console
) -> None:
    console.print(f"starting the service with its data in {folder}", soft_wrap=True)
    began = time.perf_counter()
    environment = _ENVIRONMENT | (_SAMPLE_SCALE if ratings is None else {})
    with running_service(folder, port=port, environment=environment) as service:
        console.print(f"ready after {time.perf_counter() - began:.1f} s at {service.url}")
        user_id = story.run(service.url, ratings, items, console)
        if not exit_after:
            story.show_addresses(service.url, user_id, console)
            console.print("\nThe service runs until Ctrl-C.")
            with suppress(KeyboardInterrupt):
                code = service.process.wait()
                raise ServiceEnded(f"the service ended with code {code}; its log is {service.log}")
    console.print("the service has stopped")


def _check_readable(*paths: Path | None) -> None:
    """Raise OSError before anything is started."""
    for path in paths:
        if path is not None:
            path.open("rb").close()


@contextmanager
def _folder(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is not None:
        yield data_dir.absolute()
        return
    with TemporaryDirectory(prefix="palate-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does: the service is stopped cleanly."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
