"""API processes that share what was imported: forks of a parent that imports the service and runs none of it.

Left to itself, uvicorn starts each as a new interpreter with all libraries of its own. What forks save, and why they
are safe here: docs/decisions/0055-forked-api-processes.md.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.context import ForkProcess
from socket import socket

from uvicorn import Config
from uvicorn.supervisors import multiprocess

import app.main  # noqa: F401  (what all share: libraries, routes, compiled kernels)
from app.engine.precompile import precompile_serving_kernels
from app.metrics.processes import leave_figures_to_forks


def fork_workers() -> None:
    """From now on, uvicorn's supervisor forks this process, which must have a single thread and no connections."""
    precompile_serving_kernels()
    leave_figures_to_forks()
    gc.collect()
    gc.freeze()  # a collection would write to every object, and so copy every page
    multiprocess.get_subprocess = _fork  # type: ignore[assignment, attr-defined]


_PR_SET_PDEATHSIG = 1


class _Fork(ForkProcess):
    """Handles signals as a new process does; those that come while it is made are not lost on the parent's handlers."""

    def start(self) -> None:
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, multiprocess.SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)

    def run(self) -> None:
        for number in multiprocess.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, multiprocess.SIGNALS)
        self._end_with_parent()
        super().run()

    def _end_with_parent(self) -> None:
        """Have Linux send SIGTERM when the parent is killed: nobody else would end this, and it holds the port."""
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        parent = parent_process()
        if parent and os.getppid() != parent.pid:  # it was killed before that
            signal.raise_signal(signal.SIGTERM)


def _fork(_config: Config, target: Callable[..., None], sockets: list[socket]) -> _Fork:
    """In the place of `uvicorn._subprocess.get_subprocess`; logs are set up already."""
    return _Fork(target=target, args=(sockets,))
