import os
from pathlib import Path

import pytest

from app.atomic_files import TEMPORARY, replacing


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_has_its_old_contents_until_the_new_ones_are_complete(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "file").read_text() == "old"
    assert (tmp_path / "file").read_text() == "new"
    assert _names(tmp_path) == ["file"]


def test_a_folder_appears_with_all_its_files(tmp_path: Path) -> None:
    with replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "file").write_text("text")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "file").read_text() == "text"
    assert _names(tmp_path) == ["folder"]


def test_a_folder_never_replaces_one_that_has_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("old")
    with pytest.raises(OSError, match="not empty"), replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
    assert (tmp_path / "folder" / "file").read_text() == "old"
    assert _names(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "file").write_text("old")

    def fail_halfway() -> None:
        with replacing(tmp_path / "file") as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        fail_halfway()
    assert (tmp_path / "file").read_text() == "old"
    assert _names(tmp_path) == ["file"]


def test_what_a_killed_process_left_behind_is_removed_by_the_next_write(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY}folder").mkdir()
    (tmp_path / f"{TEMPORARY}folder" / "half").write_text("half of a f")
    with replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
    assert _names(tmp_path / "folder") == []


def test_two_processes_can_write_the_same_shared_file_at_once(tmp_path: Path) -> None:
    with replacing(tmp_path / "file", is_shared=True) as one, replacing(tmp_path / "file", is_shared=True) as two:
        one.write_text("one")
        two.write_text("two")
    assert (tmp_path / "file").read_text() == "one"  # renamed last
    assert _names(tmp_path) == ["file"]


def test_contents_are_synced_before_the_rename_and_the_name_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        steps.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real_sync(descriptor)

    def replace(path: Path, target: Path) -> Path:
        steps.append("rename")
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    with replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "file").write_text("text")
    assert steps == ["file", f"{TEMPORARY}folder", "rename", tmp_path.name]
    steps.clear()
    with replacing(tmp_path / "cache", is_durable=False) as temporary:
        temporary.write_text("text")
    assert steps == ["rename"]
