"""The peers' own environment, and how their scripts are called in it.

    .venv/bin/python -m benchmarks.peers.environment        build or complete it, print what is in it

It lies in benchmarks/results/peers-venv and never touches the project's. LIBMF is built from its source package with
the flags below: the wheel on the index is an unoptimised build and would be no fair peer. funk-svd is not on the index;
it is taken from its repository, or from the folder named by FUNK_SVD_SOURCE. A peer that cannot be installed is left
out, with a line that says so.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
ENVIRONMENT = RESULTS / "peers-venv"
SCRIPTS = Path(__file__).parent

LIBMF_FLAGS = {"CFLAGS": "-O3 -march=native -DUSEAVX -fopenmp -DUSEOMP", "LDFLAGS": "-fopenmp"}
FUNK_SVD = "git+https://github.com/gbolmier/funk-svd@fecc38ea1c2859ef6a6d9af0b7f953e1b693764e"
BASE = ("numpy>=2.2,<2.5", "scipy", "pandas", "numba>=0.68,<0.69", "matplotlib", "setuptools", "wheel")
LIBMF = ("--no-cache-dir", "--no-binary", ":all:", "--no-deps", "libmf==0.9.2")
"""No cache: pip would hand out a wheel that was built with other flags."""

MOST_TRIES = 3

_NUMBER = r"(-?\d+\.\d+|-?nan|-?inf)"
_ITERATION = re.compile(rf"^\s*(\d+)\s+{_NUMBER}\s+{_NUMBER}\s")


class PeerFailed(RuntimeError):
    """A peer's script ended badly; carries what it said."""

    def __init__(self, script: str, said: str) -> None:
        super().__init__(f"{script}: {said.strip()[-2000:]}")
        self.script = script


def python() -> Path:
    return ENVIRONMENT / "bin" / "python"


@functools.cache
def versions() -> dict[str, str]:
    """Installed peers and what they stand on; builds the environment the first time."""
    if not (ENVIRONMENT / "complete").exists():
        _build()
    listed = _run(["-m", "pip", "list", "--format=json", "--disable-pip-version-check"]).stdout
    found = {package["name"]: package["version"] for package in json.loads(listed)}
    wanted = ("libmf", "scikit-surprise", "implicit", "faiss-cpu", "funk-svd", "numpy", "numba", "matplotlib")
    return {name: found[name] for name in wanted if name in found}


def call(script: str, request: dict[str, Any], *, cores: Sequence[int] | None = None) -> dict[str, Any]:
    """The answer of one peer script in a fresh process, on these cores alone; LIBMF's own lines come as `curve`.

    A script that hangs is ended and tried again: LIBMF's threads can sleep for ever when they finish an iteration in
    the moment between its last `resume` and `terminate`, which a small data set on a busy machine makes likely.
    """
    n_ratings = (Path(request["folder"]) / "train_values.npy").stat().st_size // 4
    for _ in range(MOST_TRIES):
        with contextlib.suppress(subprocess.TimeoutExpired):
            said = _run([str(SCRIPTS / f"{script}.py")], json.dumps(request), cores, 30 + n_ratings / 40_000)
            return _answer(script, said)
    raise PeerFailed(script, f"hung {MOST_TRIES} times")


def _answer(script: str, said: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    lines = said.stdout.splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    if said.returncode or not answers:
        raise PeerFailed(script, said.stderr or said.stdout)
    answer: dict[str, Any] = answers[-1]
    matches = [match for line in lines if (match := _ITERATION.match(line))]
    errors = [float(match[3]) for match in matches]
    return {**answer, "curve": [error if math.isfinite(error) else math.inf for error in errors]}


def _build() -> None:
    print(f"building the peers' environment in {ENVIRONMENT} (once, some minutes) ...", flush=True)
    if not python().exists():
        venv.create(ENVIRONMENT, with_pip=True)
    _install(*BASE, must=True)
    _install(*LIBMF, must=True, environment=LIBMF_FLAGS)
    _install("scikit-surprise")
    _install("implicit")
    _install("faiss-cpu")
    # It asks for Python < 3.10 and runs on later ones; its dependencies are in BASE.
    _install("--no-deps", "--ignore-requires-python", os.environ.get("FUNK_SVD_SOURCE", FUNK_SVD))
    (ENVIRONMENT / "complete").touch()


def _install(*what: str, must: bool = False, environment: dict[str, str] | None = None) -> None:
    command = [str(python()), "-m", "pip", "install", "-q", "--disable-pip-version-check", *what]
    done = subprocess.run(command, env={**os.environ, **(environment or {})}, capture_output=True, text=True)
    if done.returncode and must:
        raise PeerFailed("pip install", done.stderr)
    if done.returncode:
        print(f"left out: {what[-1]} ({done.stderr.strip().splitlines()[-1]})", flush=True)


def _run(
    arguments: list[str], text: str | None = None, cores: Sequence[int] | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    one_thread_each = {"OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [str(python()), *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **one_thread_each},
        preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
    )


if __name__ == "__main__":
    for name, version in versions().items():
        sys.stdout.write(f"{name:<18} {version}\n")
