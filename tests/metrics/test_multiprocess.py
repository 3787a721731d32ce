"""Figures of processes that share a folder, run as processes."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.mmap_dict import MmapedDict

from app.metrics.multiprocess import merged_registry
from tests.metrics.samples import parse

WORKER = """
import sys
from app.metrics.instruments import CONNECTIONS, TOP_N_SECONDS, count_ratings
count_ratings(created=int(sys.argv[1]))
TOP_N_SECONDS.observe(0.001)
CONNECTIONS.labels("in_use").set(int(sys.argv[1]))
print("counted", flush=True)
sys.stdin.read()
"""
SCRAPE = "from app.metrics.api import *; print(generate_latest(merged_registry()).decode())"
CREATED = 'palate_ratings_written_total{outcome="created"}'
IN_USE = 'palate_database_connections{state="in_use"}'
LISTS = "palate_top_n_seconds_count"


@contextmanager
def worker(folder: Path, n: int) -> Iterator[subprocess.Popen[str]]:
    """A process that has counted `n` ratings; it is killed at the end, and so has no chance to tidy up."""
    arguments = [sys.executable, "-c", WORKER, str(n)]
    process = subprocess.Popen(
        arguments, env=environment(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline() == "counted\n"
        yield process
        process.kill()
        process.wait()


def environment(folder: Path) -> dict[str, str]:
    return {"PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": str(Path.cwd()), "PATH": ""}


def scraped(folder: Path) -> dict[str, float]:
    command = [sys.executable, "-c", SCRAPE]
    return parse(subprocess.run(command, env=environment(folder), check=True, capture_output=True, text=True).stdout)


def test_processes_that_live_side_by_side_are_added_up(tmp_path: Path) -> None:
    with worker(tmp_path, 3), worker(tmp_path, 4):
        found = scraped(tmp_path)
    assert (found[CREATED], found[LISTS], found[IN_USE]) == (7, 2, 7)


def test_what_a_dead_process_counted_stays_and_what_it_held_goes(tmp_path: Path) -> None:
    with worker(tmp_path, 3):
        with worker(tmp_path, 4):
            pass
        found = scraped(tmp_path)
    assert (found[CREATED], found[LISTS], found[IN_USE]) == (7, 2, 3)


def test_whoever_follows_a_dead_process_counts_on_and_leaves_no_more_files(tmp_path: Path) -> None:
    n_files = []
    for _ in range(3):
        with worker(tmp_path, 5):
            n_files.append(len(list(tmp_path.iterdir())))
    assert scraped(tmp_path)[CREATED] == 15
    assert len(set(n_files)) == 1


def test_many_processes_that_start_at_once_take_places_of_their_own(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for n in range(1, 5):
            stack.enter_context(worker(tmp_path, n))
        assert scraped(tmp_path)[CREATED] == 10
        assert len(list(tmp_path.glob("*.lock"))) >= 4


def test_without_a_folder_a_process_tells_of_itself() -> None:
    assert "process_resident_memory_bytes" in parse(generate_latest(merged_registry()).decode())


def test_a_file_that_a_process_has_only_just_opened_is_read_once_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    begun = tmp_path / "counter_0.db"
    begun.touch()
    finished = threading.Timer(0.02, lambda: MmapedDict(str(begun)).close())
    finished.start()
    assert list(merged_registry().collect()) == []
    finished.join()
