"""The demo as a person meets it: it shows what it promises, ends cleanly, and says what went wrong."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.demo.run import demo
from app.demo.world import sample_world, write_items_csv, write_ratings_csv
from tests.conftest import KERNELS


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that are compiled already, and a database setting that the demo must not follow."""
    monkeypatch.setenv("PALATE_KERNEL_CACHE_DIR", str(KERNELS))
    monkeypatch.setenv("PALATE_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/precious")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a small ratings.csv and its movies.csv."""
    world = sample_world(seed=5, n_users=60, n_items=200, n_ratings=3600)
    write_ratings_csv(world, tmp_path / "ratings.csv")
    write_items_csv(world, tmp_path / "movies.csv")
    return tmp_path


def test_the_demo_shows_what_one_rating_moves_and_on_its_own_data_goes_on(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(files / "ratings.csv", None, files / "data", 0, exit_after=True) == 0
    output = capsys.readouterr().out
    assert "200 titles stored\n3,600 ratings stored" in output
    assert re.search(r"model version 1 trained in .* hold-out RMSE [01]\.\d{4}", output)
    assert re.search(r"gave \d+ ratings; liked best", output)
    assert re.search(r"recommended by model version 1 *\ntitle.*(\n.* \d\.\d\d .*){10}\n", output)
    assert re.search(r"now rates .* with (0\.5|5)\nthe list \d+ ms later, without any training", output)
    assert "the service has stopped" in output
    assert "/docs" not in output  # the service is gone
    assert demo(files / "ratings.csv", None, files / "data", 0, exit_after=True) == 0
    assert "model version 2 trained" in capsys.readouterr().out


def test_a_missing_file_is_reported_before_anything_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(tmp_path / "mine.csv", None, tmp_path / "data", 0, exit_after=True) == 1
    assert re.search(r"the demo failed: .*No such file.*mine\.csv", capsys.readouterr().out)
    assert not (tmp_path / "data").exists()


def test_a_file_without_ratings_ends_the_demo_with_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.csv").write_text("userId,movieId,rating\nann,dune,9\n")
    assert demo(tmp_path / "mine.csv", None, tmp_path / "data", 0, exit_after=True) == 1
    assert re.search(r"the demo failed: .*line 2: .*0.5 to 5", capsys.readouterr().out)


def test_a_service_that_cannot_start_is_reported_with_the_end_of_its_log(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_LOG_LEVEL", "warning")
    monkeypatch.setenv("PALATE_IMPORTS_BATCH_SIZE", "many")
    assert demo(files / "ratings.csv", None, files / "data", 0, exit_after=True) == 1
    assert "BATCH_SIZE" in capsys.readouterr().out


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_service_stays_until_it_is_stopped_and_leaves_nothing_behind(sent: signal.Signals, files: Path) -> None:
    command = [sys.executable, "-m", "app.cli", "demo", "--ratings", str(files / "ratings.csv")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(files)}
    ) as process:
        try:
            assert process.stdout
            output = "".join(_until(process.stdout, "until you press Ctrl-C"))
            url = re.search(r"dashboard +(http://\S+/)", output)
            assert url
            assert httpx.get(url[1]).status_code == 200
            process.send_signal(sent)
            assert "the service has stopped" in process.stdout.read()
            assert process.wait() == 0
        finally:
            process.kill()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url[1])
    assert not list(files.glob("palate-*"))


def _until(lines: Iterator[str], text: str) -> Iterator[str]:
    for line in lines:
        yield line
        if text in line:
            return
