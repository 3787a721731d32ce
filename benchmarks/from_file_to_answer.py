"""Time from a file of ratings to the first recommendation: command-line import, training with defaults, a request.

    .venv/bin/python -m benchmarks.from_file_to_answer ../shared/data/ml-latest-small/ratings.csv

Import is the whole `palate import` process on a fresh SQLite file; training lasts from the request until its version is
served (kernels cached by an earlier run); the first recommendation is the first request served by the new version.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from app.demo.service_process import running_service
from benchmarks.http_folds import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rounds = [_measure(arguments.ratings) for _ in range(arguments.rounds)]
    for name, figures in zip(("import s", "training s", "first answer ms"), zip(*rounds, strict=True), strict=True):
        shown = "  ".join(f"{figure:.2f}" for figure in figures)
        print(f"{name:<16} median {statistics.median(figures):7.2f}   of {shown}")


def _measure(ratings: Path) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, "-m", "app.cli", "import", str(ratings)]
        subprocess.run(command, env={**os.environ, "PALATE_DATA_DIR": folder}, check=True, stdout=subprocess.DEVNULL)
        imported = time.perf_counter() - started
        with (
            running_service(Path(folder), environment={"PALATE_RETRAIN_ENABLED": "false"}) as service,
            httpx.Client(base_url=service.url, timeout=300) as client,
        ):
            trained = train(client)
            user = next(csv.DictReader(ratings.open()))["userId"]
            started = time.perf_counter()
            answer = client.get(f"/v1/users/{user}/recommendations").raise_for_status().json()
            answered = time.perf_counter() - started
            assert answer["model_version"], answer
    return imported, trained, answered * 1e3


if __name__ == "__main__":
    main()
