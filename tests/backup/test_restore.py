"""A restore brings back all of a backup or changes nothing."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.api_keys import keys
from app.backup.archive import DamagedArchive
from app.backup.backup import back_up
from app.backup.restore import InUse, NewerSchema, NotEmpty, WouldRemoveAllKeys, restore, undoing_new_files
from app.cli.__main__ import app as cli
from app.db.engine import Database
from app.db.revisions import revision
from app.main import create_app
from app.ratings import store
from app.ratings.erasure import erase_user
from app.settings import Settings
from tests.asgi import serving
from tests.backup.world import a_little_of_everything, contents, digest_of, migrated, opened, with_other_manifest
from tests.ratings.writing import save
from tests.registry import world as registry
from tests.training.world import claim, enqueue, fill, listed, ratings_of, run_of, train


def test_restored_recommendations_are_the_same(
    database: Database, settings: Settings, target: Settings, tmp_path: Path
) -> None:
    a_little_of_everything(database, settings)
    back_up(database, settings, tmp_path / "backup.zip")
    with opened(target) as other:
        restore(other, target, tmp_path / "backup.zip")
    paths = [f"/v1/users/user-{number}/recommendations?n=40" for number in range(5)] + ["/v1/items/item-3/similar"]
    with serving(create_app(settings)) as before, serving(create_app(target)) as after:
        for path in paths:
            expected = before.get(path).json()
            assert expected["model_version"] == 1
            assert after.get(path).json() == expected


def test_a_restored_service_is_written_to_and_trained_as_before(
    database: Database, settings: Settings, target: Settings, tmp_path: Path
) -> None:
    a_little_of_everything(database, settings)
    back_up(database, settings, tmp_path / "backup.zip")
    with opened(target) as other:
        restore(other, target, tmp_path / "backup.zip")
        with other.write() as connection:
            before = revision(connection, "ratings")
            saved = save(connection, "user-0", "item-0", 1.5, None, other.now(connection))
        assert saved.revision == before + 1
        run = train(other, target)
        assert (run.status, listed(other)) == ("succeeded", [2, 1])


def test_a_database_with_rows_is_replaced_only_on_request(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    fill(database)
    made = back_up(database, settings, tmp_path / "backup.zip")
    with database.write() as connection:
        erase_user(connection, "user-0")
    with pytest.raises(NotEmpty, match="--replace"):
        restore(database, settings, tmp_path / "backup.zip")
    assert digest_of(database) != made.digest
    restore(database, settings, tmp_path / "backup.zip", replace=True)
    assert digest_of(database) == made.digest


def test_data_that_a_trainer_uses_are_not_replaced(database: Database, settings: Settings, tmp_path: Path) -> None:
    fill(database)
    back_up(database, settings, tmp_path / "backup.zip")
    run = enqueue(database)
    claim(database, settings)
    with pytest.raises(InUse, match="stop the service"):
        restore(database, settings, tmp_path / "backup.zip", replace=True)
    assert run_of(database, run.id).status == "running"


def test_data_that_a_service_has_open_are_not_replaced(database: Database, settings: Settings, tmp_path: Path) -> None:
    fill(database)
    digest = back_up(database, settings, tmp_path / "backup.zip").digest
    database.dispose()
    with serving(create_app(settings)) as client:
        client.delete("/v1/users/user-0")
        with opened(settings) as other, pytest.raises(InUse, match="stop the service"):
            restore(other, settings, tmp_path / "backup.zip", replace=True)
        assert client.get("/v1/users/user-0/ratings").json()["ratings"] == []
    assert restore(database, settings, tmp_path / "backup.zip", replace=True).digest == digest


def make_key(database: Database, name: str) -> None:
    with database.write() as connection:
        keys.create(connection, name, ["read"], database.now(connection))


def names_of_keys(database: Database) -> list[str]:
    with database.read() as connection:
        return sorted(row.name for row in keys.active(connection))


def test_a_backup_without_keys_does_not_remove_the_keys(database: Database, settings: Settings, tmp_path: Path) -> None:
    fill(database)
    made = back_up(database, settings, tmp_path / "backup.zip")
    make_key(database, "web shop")
    with database.write() as connection:
        erase_user(connection, "user-0")
    with pytest.raises(WouldRemoveAllKeys, match="--keep-keys"):
        restore(database, settings, tmp_path / "backup.zip", replace=True)
    assert (names_of_keys(database), digest_of(database) == made.digest) == (["web shop"], False)
    restore(database, settings, tmp_path / "backup.zip", replace=True, keep_keys=True)
    assert (names_of_keys(database), digest_of(database)) == (["web shop"], made.digest)


def test_a_restore_warns_of_keys_that_it_removes_or_brings_back(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    for name in ("stays", "revoked since"):
        make_key(database, name)
    back_up(database, settings, tmp_path / "backup.zip")
    with database.write() as connection:
        keys.revoke(connection, "revoked since", database.now(connection))
    make_key(database, "made since")
    gone, again = restore(database, settings, tmp_path / "backup.zip", replace=True).warnings
    assert "'made since'" in gone
    assert "'revoked since'" in again
    assert names_of_keys(database) == ["revoked since", "stays"]


def test_a_new_stack_may_keep_its_first_key(database: Database, settings: Settings, target: Settings) -> None:
    fill(database)
    archive = settings.data_dir / "backup.zip"
    made = back_up(database, settings, archive)
    with opened(target) as other:
        make_key(other, "first")
        with pytest.raises(NotEmpty):
            restore(other, target, archive)
        restore(other, target, archive, keep_keys=True)
        assert (names_of_keys(other), digest_of(other)) == (["first"], made.digest)
        make_key(other, "second")


def test_after_a_restore_a_repeated_request_is_a_new_one(settings: Settings, tmp_path: Path) -> None:
    """The answer that was kept names a run that is no longer there."""
    ask = {"headers": {"Idempotency-Key": "once"}, "json": {}}
    with opened(settings) as database:
        back_up(database, settings, tmp_path / "backup.zip")
        with serving(create_app(settings)) as client:
            assert client.post("/v1/training-runs", **ask).status_code == 202  # type: ignore[arg-type]
        restore(database, settings, tmp_path / "backup.zip", replace=True)
    with serving(create_app(settings)) as client:
        run = client.post("/v1/training-runs", **ask).json()  # type: ignore[arg-type]
        assert client.get(f"/v1/training-runs/{run['id']}").json()["status"] == "queued"


def test_a_restore_that_fails_late_leaves_no_folder(
    database: Database, settings: Settings, target: Settings, tmp_path: Path
) -> None:
    a_little_of_everything(database, settings)
    back_up(database, settings, tmp_path / "whole.zip")
    other = with_other_manifest(tmp_path / "whole.zip", b'"digest": "', b'"digest": "0')
    with opened(target) as empty:
        with pytest.raises(DamagedArchive, match="digest of the restored ratings differs"):
            restore(empty, target, other)
        assert not list(target.versions_dir.iterdir())
        with empty.read() as connection:
            assert store.totals(connection) == (0, 0, 0)
        restore(empty, target, tmp_path / "whole.zip")


def test_an_archive_of_a_newer_release_is_refused(sqlite_settings: Settings, tmp_path: Path) -> None:
    with opened(sqlite_settings) as database:
        back_up(database, sqlite_settings, tmp_path / "backup.zip")
        newer = with_other_manifest(tmp_path / "backup.zip", b'"schema": "', b'"schema": "9')
        with pytest.raises(NewerSchema):
            restore(database, sqlite_settings, newer)


def test_a_restore_warns_of_a_different_rating_scale(sqlite_settings: Settings, tmp_path: Path) -> None:
    with opened(sqlite_settings) as database:
        fill(database, ratings_of(n_users=3, n_items=3))
        back_up(database, sqlite_settings, tmp_path / "backup.zip")
    other = migrated(Settings(data_dir=tmp_path / "other", rating={"min": 1, "max": 5}))  # type: ignore[arg-type]
    with opened(other) as database:
        back = restore(database, other, tmp_path / "backup.zip")
    assert back.warnings == ("the backup has the rating scale 0.5 to 5, the settings have 1 to 5",)


def test_the_commands_print_the_contents_and_fail_in_one_line(
    sqlite_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_DATA_DIR", "set by --data-dir")  # which must not outlive the test
    archive = tmp_path / "backup.zip"

    def palate(*arguments: object) -> Result:
        command = ["--data-dir", str(sqlite_settings.data_dir), *map(str, arguments)]
        return CliRunner(env={"COLUMNS": "200"}).invoke(cli, command)

    with opened(sqlite_settings) as database:
        fill(database, ratings_of(n_users=3, n_items=3, share=1))
        digest = digest_of(database)
    assert palate("backup", archive).output == f"backed up 9 ratings and 0 versions at revision 9; digest {digest}\n"
    refused = palate("restore", archive)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "--replace" in refused.stderr
    replaced = palate("restore", archive, "--replace").output
    assert replaced == f"restored 9 ratings and 0 versions at revision 9; digest {digest}\n"
    archive.write_text("no archive")
    damaged = palate("restore", archive, "--replace")
    assert damaged.stderr == f"{archive} is not a complete backup; nothing was changed\n"
    assert "No such file" in palate("backup", tmp_path / "nowhere" / "backup.zip").stderr


@pytest.mark.parametrize("is_there", [False, True], ids=["a new folder", "a folder with something else"])
@pytest.mark.parametrize("fails", ["early", "late"])
def test_a_failed_restore_into_an_empty_folder_leaves_it_empty(
    sqlite_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool, fails: str
) -> None:
    monkeypatch.setenv("PALATE_DATA_DIR", "set by --data-dir")
    with opened(sqlite_settings) as database:
        registry.publish(database, sqlite_settings.versions_dir)
        back_up(database, sqlite_settings, tmp_path / "backup.zip")
    archive = with_other_manifest(tmp_path / "backup.zip", b'"digest": "', b'"digest": "0')
    if fails == "early":
        archive.write_bytes(b"no archive")
    folder = tmp_path / "new" / "folder"
    if is_there:
        folder.mkdir(parents=True)
        (folder / "notes").write_text("mine")
    refused = CliRunner(env={"COLUMNS": "200"}).invoke(cli, ["--data-dir", str(folder), "restore", str(archive)])
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "new").rglob("*"))
    assert left == (["new/folder", "new/folder/notes"] if is_there else [])
    assert (tmp_path / "new").exists() == is_there


def test_a_restore_refused_because_a_service_has_started_leaves_its_database(
    sqlite_settings: Settings, tmp_path: Path
) -> None:
    with opened(sqlite_settings) as database:
        back_up(database, sqlite_settings, tmp_path / "backup.zip")
    settings = Settings(data_dir=tmp_path / "new")
    with ExitStack() as service:

        def restore_beside_a_service() -> None:
            with undoing_new_files(settings), opened(migrated(settings)) as database:
                fill(service.enter_context(opened(settings)))
                restore(database, settings, tmp_path / "backup.zip")

        with pytest.raises(InUse):
            restore_beside_a_service()
    assert (tmp_path / "new" / "palate.db").exists()
    with opened(settings) as database:
        assert contents(database)["ratings"]


def test_a_failed_restore_leaves_the_files_of_other_programs(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    (tmp_path / "notes").write_text("from before")

    def fail() -> None:
        with undoing_new_files(settings), opened(migrated(settings)):
            (tmp_path / "letter").write_text("written meanwhile")
            raise DamagedArchive(tmp_path / "backup.zip", "is damaged")

    with pytest.raises(DamagedArchive):
        fail()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letter", "notes"]
