"""Private and shared memory of each worker of a service; the arrays of the version are memory-mapped.

    .venv/bin/python -m benchmarks.worker_memory [--items 1000000] [--workers 4] [--keep folder]

A version of 64 factors is published (`benchmarks.top_n`, skewed), all items have titles and one of twenty categories.
All workers serve lists and predictions; then /proc/PID/smaps_rollup of each is read: resident memory, how much of it
other processes share, and the proportional share (Pss). The parent process is measured as well; the trainer is
external.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import numpy as np

from app.db.engine import open_database
from app.db.tables import utc_now
from app.demo.service_process import RunningService, running_service
from app.engine.data.ratings import Vocabulary
from app.registry import artifacts, versions
from app.registry.artifacts import VersionContents
from app.settings import Settings
from benchmarks.top_n import model_of, skewed

N_USERS = 400
MEGABYTE = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--keep", type=Path, help="folder for the service, used again if it is there")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if not (folder / "versions").exists():
            fill(folder, arguments.items)
        environment = {"PALATE_TRAINER": "external"}
        service = stack.enter_context(running_service(folder, workers=arguments.workers, environment=environment))
        version = httpx.get(f"{service.url}/v1/users/nobody/recommendations").json()["model_version"]
        assert version is not None, "the version does not answer"
        assert len(service.workers) == arguments.workers
        tell("after the start", service)
        ask(service.url, arguments.items)
        tell("after requests", service)


def fill(folder: Path, n_items: int) -> None:
    """Items with titles, and a version that answers."""
    settings = Settings(data_dir=folder)
    table = folder / "items.csv"
    folder.mkdir(parents=True, exist_ok=True)
    with table.open("w") as file:
        file.write("item_id,title,categories\n")
        file.writelines(f"item-{i},The story of item number {i},kind-{i % 20}\n" for i in range(n_items))
    command = [sys.executable, "-m", "app.cli", "import-items", str(table)]
    subprocess.run(command, env={**os.environ, "PALATE_DATA_DIR": str(folder)}, check=True, stdout=subprocess.DEVNULL)
    table.unlink()
    publish(settings, n_items)


def publish(settings: Settings, n_items: int) -> None:
    ids = Vocabulary.of([f"item-{i}" for i in range(n_items)])
    keys = np.empty(n_items, np.int64)
    keys[ids.rows_of([f"item-{i}" for i in range(n_items)])] = 1 + np.arange(n_items)
    model = model_of(*skewed(n_items, np.random.default_rng(0)))
    contents = VersionContents(model, np.zeros(0, np.int64), keys, ids)
    facts = {"created_at": utc_now().isoformat(), "trained_through": 0, "n_ratings": n_items, "data_digest": "0" * 64}
    facts |= {
        "loss": model.loss.error,
        "seed": 0,
        "hyperparameters": {},
        "metrics": {},
        "learning_curve": [],
        "software": {},
    }
    manifest = artifacts.write(settings.versions_dir, "made", contents, facts)
    database = open_database(settings)
    with database.write() as connection:
        versions.publish(connection, run_id=None, folder="made", manifest=manifest, created_at=utc_now())
    database.dispose()


def ask(url: str, n_items: int) -> None:
    """Ratings, lists of all kinds and predictions; a connection each, so that all workers get some."""
    rng = np.random.default_rng(1)
    for user in range(N_USERS):
        rated = [{"user_id": f"u{user}", "item_id": f"item-{i}", "value": 4} for i in rng.integers(0, n_items, 30)]
        path = f"/v1/users/u{user}/recommendations?n=10"
        with httpx.Client(base_url=url, timeout=60) as client:
            client.post("/v1/ratings/batch", json={"ratings": rated}).raise_for_status()
            for more in ("", "&offset=100", f"&category=kind-{user % 20}"):
                client.get(path + more).raise_for_status()
            client.get(f"/v1/items/item-{user}/similar").raise_for_status()
            client.get("/v1/items/popular").raise_for_status()
            client.get(f"/v1/users/u{user}/predictions/item-7").raise_for_status()


def tell(when: str, service: RunningService) -> None:
    print(f"{when}: MB of each worker, and of their parent")
    for process in (*service.workers, service.process.pid):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
        sizes = {name: int(rest.split()[0]) * 1024 / MEGABYTE for name, rest in (line.split(":") for line in lines)}
        shared = sizes["Shared_Clean"] + sizes["Shared_Dirty"]
        line = f"resident {sizes['Rss']:.0f}, shared {shared:.0f}, its own {sizes['Rss'] - shared:.0f}"
        print(f"  {line} ({sizes['Private_Dirty']:.0f} written), proportional share {sizes['Pss']:.0f}", flush=True)


if __name__ == "__main__":
    main()
