"""An archive that was changed is refused; only its owner may read it."""

import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.backup.archive import DamagedArchive
from app.backup.backup import back_up
from app.backup.restore import restore
from app.db.engine import Database
from app.settings import Settings
from tests.backup.world import a_little_of_everything, contents, opened, with_other_manifest
from tests.training.world import fill


def damaged_in_many_ways(whole: bytes) -> Iterator[bytes]:
    yield b""
    yield b"no archive at all"
    yield whole[: len(whole) // 2]
    yield whole[:-1000]
    dice = random.Random(3)
    for _ in range(25):
        place = dice.randrange(len(whole))
        yield whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]


def test_a_damaged_archive_is_refused_and_changes_nothing(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    a_little_of_everything(database, settings)
    path = tmp_path / "backup.zip"
    back_up(database, settings, path)
    whole = path.read_bytes()
    before, folders = contents(database), sorted(settings.versions_dir.rglob("*"))
    n_refused = 0
    for damaged in damaged_in_many_ways(whole):
        path.write_bytes(damaged)
        try:
            restore(database, settings, path, replace=True)
        except DamagedArchive:
            n_refused += 1
        assert contents(database) == before  # a flipped bit that no byte of the contents depends on does no harm
        assert sorted(settings.versions_dir.rglob("*")) == folders
    assert n_refused >= 25


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"user_key"', b"\"user_key) FROM PROGRAM 'touch /tmp/broken-in' --\""),
        (b'"user_key"', b'"user_key) SELECT 1, 2, 3, 4, 5 --"'),
        (b'"i4"', b'"f8"'),
        (b'"i4"', b'"O"'),
    ],
)
def test_a_forged_archive_cannot_inject_sql(
    settings: Settings, database: Database, tmp_path: Path, old: bytes, new: bytes
) -> None:
    fill(database)
    back_up(database, settings, tmp_path / "backup.zip")
    before = contents(database)
    with pytest.raises(DamagedArchive, match="unknown columns"):
        restore(database, settings, with_other_manifest(tmp_path / "backup.zip", old, new), replace=True)
    assert contents(database) == before


def test_a_member_with_a_larger_size_than_was_written_is_not_unpacked(
    sqlite_settings: Settings, tmp_path: Path
) -> None:
    with opened(sqlite_settings) as database:
        back_up(database, sqlite_settings, tmp_path / "backup.zip")
        with zipfile.ZipFile(tmp_path / "backup.zip") as whole, zipfile.ZipFile(tmp_path / "bomb.zip", "w") as bomb:
            for name in whole.namelist():
                body = bytes(1 << 28) if name.startswith("tables/counters") else whole.read(name)
                bomb.writestr(name, body, zipfile.ZIP_DEFLATED)
        with pytest.raises(DamagedArchive, match="has a wrong length"):
            restore(database, sqlite_settings, tmp_path / "bomb.zip", replace=True)


def test_only_the_owner_may_read_a_backup_and_a_failed_one_leaves_the_old_file(
    sqlite_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "backup.zip"
    with opened(sqlite_settings) as database:
        back_up(database, sqlite_settings, path)
        before = path.read_bytes()
        monkeypatch.setattr("app.backup.backup.ratings_digest", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            back_up(database, sqlite_settings, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.glob("backup*")] == ["backup.zip"]
