import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from app.db.engine import Database
from app.engine.search.trials import best_of
from app.registry.live_model import LiveModel
from app.settings import RetrainPolicy, Settings, Training
from app.training import queue
from tests.training.world import (
    ENDLESS,
    QUICK,
    active,
    enqueue,
    epochs_of,
    fill,
    listed,
    ratings_of,
    run_of,
    start_worker,
    wait_until,
)
from tests.tuning.world import search, spec, trials_of

Start = Callable[[Settings], "subprocess.Popen[bytes]"]


@pytest.fixture
def quick_lease(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"training": Training(lease=1, poll_interval=0.05), "retrain": RetrainPolicy(enabled=False)}
    )


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts worker processes that do not outlive the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(settings: Settings) -> subprocess.Popen[bytes]:
        processes.append(start_worker(settings))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def _is_learning(database: Database, run_id: int) -> bool:
    return len(epochs_of(database, run_id)) > 0


def _ends(process: "subprocess.Popen[bytes]") -> int:
    return process.wait(timeout=300)


def test_a_worker_trains_queued_runs_until_it_is_stopped(
    database: Database, quick_lease: Settings, start: Start
) -> None:
    fill(database)
    runs = [enqueue(database), enqueue(database)]
    worker = start(quick_lease)
    wait_until(lambda: all(run_of(database, run.id).status == "succeeded" for run in runs))
    worker.send_signal(signal.SIGTERM)
    assert _ends(worker) == 0
    assert active(database) == run_of(database, runs[1].id).version


def test_the_policy_starts_a_run_by_itself(database: Database, quick_lease: Settings, start: Start) -> None:
    policy = RetrainPolicy(min_changes=50, min_interval=0.01)
    start(quick_lease.model_copy(update={"retrain": policy, "hyperparameters": QUICK.to_dict()}))
    fill(database)
    wait_until(lambda: active(database) is not None)
    assert run_of(database, 1).requested_by == "policy"
    fill(database, ratings_of(seed=1))
    wait_until(lambda: active(database) == 2)


def test_runs_of_the_policy_use_the_best_trial_of_a_published_search(
    database: Database, quick_lease: Settings, start: Start
) -> None:
    fill(database)
    found = search(database, quick_lease, spec(n_trials=2, publish=True, strategy="random"))
    best = best_of(trials_of(database, found.id))
    assert best is not None
    policy = RetrainPolicy(min_changes=50, min_interval=0.01)
    start(quick_lease.model_copy(update={"retrain": policy, "hyperparameters": QUICK.to_dict()}))
    fill(database, ratings_of(seed=1))
    wait_until(lambda: active(database) == 2)
    assert run_of(database, 2).requested_by == "policy"
    assert run_of(database, 2).hyperparameters == QUICK.replace(**best.parameters).to_dict()


def test_a_killed_trainers_run_is_taken_over_and_published(
    database: Database, quick_lease: Settings, start: Start
) -> None:
    fill(database, ratings_of(200, 100))
    run = enqueue(database, ENDLESS.replace(n_epochs=400))
    first = start(quick_lease)
    wait_until(lambda: _is_learning(database, run.id))
    first.kill()
    assert _ends(first) == -signal.SIGKILL
    assert run_of(database, run.id).status == "running"
    start(quick_lease)
    wait_until(lambda: run_of(database, run.id).status == "succeeded")
    row = run_of(database, run.id)
    assert row.attempt == 2
    assert listed(database) == [row.version]


def test_a_worker_that_is_stopped_hands_its_run_back(database: Database, quick_lease: Settings, start: Start) -> None:
    fill(database, ratings_of(200, 100))
    run = enqueue(database, ENDLESS)
    worker = start(quick_lease)
    wait_until(lambda: _is_learning(database, run.id))
    worker.send_signal(signal.SIGINT if database.is_sqlite else signal.SIGTERM)  # each once is enough
    assert _ends(worker) == 0
    assert run_of(database, run.id).status == "queued"
    assert epochs_of(database, run.id) == []


def test_a_cancelled_run_ends_and_the_worker_goes_on(database: Database, quick_lease: Settings, start: Start) -> None:
    fill(database, ratings_of(200, 100))
    run, following = enqueue(database, ENDLESS), enqueue(database)
    start(quick_lease)
    wait_until(lambda: _is_learning(database, run.id))
    with database.write() as connection:
        queue.request_cancel(connection, run.id, database.now(connection))
    wait_until(lambda: run_of(database, following.id).status == "succeeded")
    assert run_of(database, run.id).status == "cancelled"


def test_a_worker_ends_when_the_process_that_started_it_is_gone(sqlite_settings: Settings) -> None:
    starter = (
        "import os, subprocess, sys\n"
        "worker = subprocess.Popen([sys.executable, '-m', 'app.worker', '--settings-from-stdin', '--parent',"
        " str(os.getpid())], stdin=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "worker.stdin.write(sys.argv[1].encode())\n"
        "worker.stdin.close()\n"
        "while b'ready' not in worker.stderr.readline(): pass\n"
        "print(worker.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", starter, sqlite_settings.model_dump_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    with parent.stdout, parent.stdin:
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
        parent.wait()
        wait_until(lambda: not _is_alive(pid))


def _is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended but was not collected yet does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.soak
def test_a_trainer_killed_at_any_moment_leaves_no_half_version(
    database: Database, quick_lease: Settings, start: Start
) -> None:
    """Kills fall everywhere, publishing included: what is listed can be loaded, and the last run is published."""
    fill(database)
    live = LiveModel(database, quick_lease)
    for turn in range(25):
        run = enqueue(database, QUICK.replace(n_epochs=1 + turn % 3))
        worker = start(quick_lease)
        wait_until(lambda run=run: run_of(database, run.id).status != "queued")
        time.sleep(0.02 * turn)
        worker.kill()
        worker.wait()
        live.refresh()
        assert live.problem is None
        assert (live.current.version if live.current else None) == active(database)
    start(quick_lease)
    wait_until(lambda: run_of(database, 25).status == "succeeded")
    live.refresh()
    assert live.current is not None
    assert live.current.version == active(database) == listed(database)[0]
    wait_until(lambda: len(list(quick_lease.versions_dir.iterdir())) == len(listed(database)))  # old ones are pruned


def test_the_heartbeat_file_is_touched_while_the_worker_waits_and_while_it_works(
    database: Database, quick_lease: Settings, start: Start
) -> None:
    sign = quick_lease.data_dir / "alive"
    training = quick_lease.training.model_copy(update={"heartbeat_file": sign})
    start(quick_lease.model_copy(update={"training": training}))
    wait_until(sign.exists)
    fill(database, ratings_of(200, 100))
    run = enqueue(database, ENDLESS)
    wait_until(lambda: _is_learning(database, run.id))
    before = sign.stat().st_mtime_ns
    wait_until(lambda: sign.stat().st_mtime_ns > before)
