"""Every table is written, and comes back the same in either kind of database."""

from pathlib import Path

import pytest
from sqlalchemy import inspect

import migrations
from app.backup import tables as backup_tables
from app.backup.backup import back_up
from app.backup.restore import restore
from app.backup.tables import tables
from app.db.engine import Database
from app.items import store as items
from app.ratings import user_ratings
from app.settings import Settings
from tests.backup.world import a_little_of_everything, contents, digest_of, opened
from tests.ratings.writing import save


def test_every_table_is_backed_up(database: Database) -> None:
    there = set(inspect(database.engine).get_table_names()) - {migrations.VERSION_TABLE}
    assert {table.name for table in tables()} == there - {
        "idempotent_responses"
    }  # of the last day, of this deployment only


def test_a_restore_brings_back_all_data_on_both_databases(
    database: Database, settings: Settings, target: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_tables, "PAGE_NUMBERS", 97)
    monkeypatch.setattr(backup_tables, "PAGE_TEXTS", 13)
    a_little_of_everything(database, settings)
    made = back_up(database, settings, tmp_path / "backup.zip")
    with opened(target) as other:
        back = restore(other, target, tmp_path / "backup.zip")
        assert contents(other) == contents(database)
        assert (back.digest, back.revision, back.n_ratings) == (made.digest, made.revision, made.n_ratings)
        assert digest_of(other) == made.digest == digest_of(database)


def test_numbers_assigned_before_a_backup_are_not_assigned_again_after_a_restore(
    database: Database, settings: Settings, target: Settings, tmp_path: Path
) -> None:
    a_little_of_everything(database, settings)
    back_up(database, settings, tmp_path / "backup.zip")
    keys = []
    with opened(target) as other:
        restore(other, target, tmp_path / "backup.zip")
        for each in (database, other):
            with each.write() as connection:
                save(connection, "new-user", "new-item", 3.0, None, each.now(connection))
                keys.append(
                    (user_ratings.read_one(connection, "new-user").state.user_key, items.key_of(connection, "new-item"))
                )
    assert keys[0] == keys[1]
