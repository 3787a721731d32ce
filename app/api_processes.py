"""API processes as forks of a parent that has imported the service, so that they share the memory of its libraries.

By default, uvicorn starts each worker as a new interpreter. What forks save, and why they are safe here:
docs/decisions/0055-forked-api-processes.md.
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

import app.main  # noqa: F401  (shared by all forks: libraries, routes, compiled kernels)
from app.engine.precompile import precompile_serving_kernels
from app.metrics.multiprocess import release_slot_to_forks


def fork_workers() -> None:
    """Make uvicorn's supervisor fork this process, which must have one thread and no database connections."""
    precompile_serving_kernels()
    release_slot_to_forks()
    gc.collect()
    gc.freeze()  # a collection would write to every object, and so copy every shared page
    multiprocess.get_subprocess = _fork  # type: ignore[assignment, attr-defined]


_PR_SET_PDEATHSIG = 1


class _Fork(ForkProcess):
    """A child with default signal handlers; a signal that arrives during the fork waits until they are set."""

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
        # Have Linux send SIGTERM when the parent is killed: this process would stay alive and hold the port.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        parent = parent_process()
        if parent and os.getppid() != parent.pid:  # killed before the prctl call
            signal.raise_signal(signal.SIGTERM)
        super().run()


def _fork(_config: Config, target: Callable[..., None], sockets: list[socket]) -> _Fork:
    """Replaces `uvicorn._subprocess.get_subprocess`; logging is already set up."""
    return _Fork(target=target, args=(sockets,))
