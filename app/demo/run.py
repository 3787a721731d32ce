"""The whole demo: start the service, run the steps of `story`, serve until Ctrl-C, stop the service."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from rich.markup import escape

from app.demo import story
from app.demo.service_client import ServiceRefused, user_path
from app.demo.service_process import ServiceDidNotStart, running_service
from app.demo.story import DemoFailed, console

# The demo starts its own training runs, and never uses a database that is configured for something else.
_ENVIRONMENT = {
    "PALATE_RETRAIN_ENABLED": "false",
    "PALATE_TRAINER": "embedded",
    "PALATE_DATABASE_URL": "",
    "PALATE_LOG_LEVEL": "warning",
}
_SAMPLE_SCALE = {"PALATE_RATING_MIN": "0.5", "PALATE_RATING_MAX": "5", "PALATE_RATING_STEP": "0.5"}
_INTERRUPTED = 130  # the exit code that shells report for a command ended by Ctrl-C


def demo(ratings: Path | None, items: Path | None, data_dir: Path | None, port: int, exit_after: bool) -> int:
    """The exit code: 0, 1 with a message if anything failed, or 130 if interrupted before the end.

    `port` 0 takes a free one. Without `data_dir` the data is in a temporary folder that is removed at the end.
    """
    sigterm_handler = signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the service as Ctrl-C does
    try:
        for path in filter(None, (ratings, items)):
            path.open("rb").close()  # raises OSError before anything is started
        with TemporaryDirectory(prefix="palate-demo-", ignore_cleanup_errors=True) as temporary:
            folder = data_dir.absolute() if data_dir else Path(temporary)
            _demo(ratings, items, folder, port, exit_after)
    except KeyboardInterrupt:
        console.print("\nstopped")
        return _INTERRUPTED
    except (DemoFailed, ServiceRefused, ServiceDidNotStart, httpx.HTTPError, OSError) as error:
        console.print(f"[bold red]the demo failed:[/] {escape(str(error) or type(error).__name__)}", soft_wrap=True)
        return 1
    finally:
        signal.signal(signal.SIGTERM, sigterm_handler)
    return 0


def _demo(ratings: Path | None, items: Path | None, folder: Path, port: int, exit_after: bool) -> None:
    console.print(f"starting the service with its data in {folder}", soft_wrap=True)
    began = time.perf_counter()
    environment = _ENVIRONMENT | (_SAMPLE_SCALE if ratings is None else {})
    with running_service(folder, port=port, environment=environment) as service:
        console.print(f"ready after {time.perf_counter() - began:.1f} s at {service.url}")
        user_id = story.run(service.url, ratings, items)
        if not exit_after:
            address = f"{service.url}{user_path(user_id)}/recommendations?n=5"
            console.print(f"\n[bold]dashboard[/]  {service.url}/\n[bold]API[/]        {service.url}/docs")
            console.print(f"[bold]try[/]        curl '{escape(address)}'", soft_wrap=True)
            console.print("\nThe service runs until you press Ctrl-C.")
            with suppress(KeyboardInterrupt):
                code = service.process.wait()
                raise DemoFailed(f"the service ended with code {code}; its log is {service.log}")
    console.print("the service has stopped")
