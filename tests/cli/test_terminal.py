"""Errors that a user can correct are reported in one line."""

import signal
from pathlib import Path

import pytest

from app.cli.terminal import interruptible
from tests.cli.runner import palate, refusal, written


@pytest.mark.parametrize("command", ["serve", "worker", "digest"])
@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("PALATE_DATABASE_URL", "mysql://localhost/name", "must begin with postgresql:// or sqlite:///"),
        ("PALATE_RATING_MIN", "9", "must be below rating max"),
        ("PALATE_HYPERPARAMETERS", "n_factors=8", "hyperparameters"),
    ],
)
def test_an_invalid_setting_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, command: str, variable: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert complaint in refusal(palate(command), 2)


@pytest.mark.parametrize("command", ["serve", "digest", "migrate", "train"])
def test_an_unreachable_database_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("PALATE_DATABASE_URL", "postgresql://somebody:secret@127.0.0.1:1/name")
    line = refusal(palate(command))
    assert "port 1 failed" in line
    assert "secret" not in line


@pytest.mark.parametrize("command", [["serve"], ["worker"], ["migrate"], ["import", "-"]], ids=" ".join)
def test_a_data_folder_that_cannot_be_created_is_reported_in_one_line(tmp_path: Path, command: list[str]) -> None:
    file = written(tmp_path / "file", "")
    assert str(file) in refusal(palate("--data-dir", file, *command))
    assert str(file / "below") in refusal(palate("--data-dir", file / "below", *command))


def test_a_file_that_is_not_a_database_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    written(tmp_path / "data" / "palate.db", "this is no database\n" * 100)
    assert refusal(palate("digest")) == "the database: file is not a database"


def test_ctrl_c_only_sets_a_flag_while_work_ends_in_good_order() -> None:
    with interruptible() as is_interrupted:
        assert not is_interrupted()
        signal.raise_signal(signal.SIGINT)
        assert is_interrupted()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
