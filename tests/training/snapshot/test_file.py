import json
from pathlib import Path

import pytest

from app.db.engine import Database
from app.ratings.models import NewRating
from app.training.snapshot import file
from app.training.snapshot.take import take_snapshot
from tests.training.world import fill


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["item_rows", "values", "user_starts", "item_ids_text", "user_keys"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_a_damaged_snapshot_is_rebuilt_and_never_trusted(
    database: Database, folder: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    fill(database)
    right = take_snapshot(database, folder)
    [file] = folder.glob(f"{name}-*.npy")
    if damage == "flip":
        _flip(file, -1)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    elif damage == "remove":
        file.unlink()
    else:
        file.write_bytes(b"")
    assert take_snapshot(database, folder).digest() == right.digest()
    assert any("is not used" in record.message for record in caplog.records)
    caplog.clear()
    assert take_snapshot(database, folder).digest() == right.digest()
    assert not caplog.records


@pytest.mark.parametrize("fact", ["revision", "changed_revision"])
def test_a_manifest_that_says_another_revision_is_not_trusted(
    database: Database, folder: Path, caplog: pytest.LogCaptureFixture, fact: str
) -> None:
    fill(database)
    take_snapshot(database, folder)
    fill(database, [NewRating("user-1", "item-1", 0.5)])
    manifest = json.loads((folder / file.MANIFEST).read_text())
    manifest[fact] += 1  # one change would be missed
    (folder / file.MANIFEST).write_text(json.dumps(manifest))
    assert take_snapshot(database, folder).digest() == take_snapshot(database).digest()
    assert any("checksum" in record.message for record in caplog.records)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1}', '{"format": 1, "files": {}}'])
def test_a_damaged_manifest_is_not_trusted_either(database: Database, folder: Path, text: str) -> None:
    fill(database)
    right = take_snapshot(database, folder)
    (folder / file.MANIFEST).write_text(text)
    assert take_snapshot(database, folder).digest() == right.digest()
