"""Backups: what comes back is what was there at the moment of the backup, in either kind of database."""

import random
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import inspect, select
from typer.testing import CliRunner, Result

import migrations
from app.api_keys import keys
from app.backup import tables as backup_tables
from app.backup.archive import DamagedArchive
from app.backup.backup import back_up
from app.backup.restore import InUse, NewerSchema, NotEmpty, WouldRemoveAllKeys, restore, undoing_new_files
from app.backup.tables import tables
from app.cli.__main__ import app as cli
from app.db.engine import Database, open_database
from app.db.revisions import revision
from app.items import store as items
from app.main import create_app
from app.ratings import store, user_ratings
from app.ratings.bulk_read import hold_snapshot, load_all
from app.ratings.erasure import erase_item, erase_user
from app.ratings.export import ratings_digest
from app.ratings.models import NewRating
from app.settings import Settings
from tests.asgi import serving
from tests.conftest import KERNELS, empty_postgres
from tests.ratings.writing import save
from tests.registry import world as registry
from tests.training.world import claim, enqueue, fill, listed, ratings_of, run_of, train


@pytest.fixture(params=["to sqlite", "to postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Settings of another, empty service: each backup is restored into both kinds of database."""
    folder = tmp_path / "target"
    if request.param == "to sqlite":
        yield migrated(Settings(data_dir=folder, trainer="external", kernel_cache_dir=KERNELS))
        return
    with empty_postgres(request) as url:
        yield Settings(data_dir=folder, trainer="external", kernel_cache_dir=KERNELS, database_url=url)


def migrated(settings: Settings) -> Settings:
    with opened(settings) as database:
        migrations.upgrade(database, settings)
    return settings


@contextmanager
def opened(settings: Settings) -> Iterator[Database]:
    database = open_database(settings)
    yield database
    database.dispose()


def digest_of(database: Database) -> str:
    with database.read() as connection:
        hold_snapshot(connection)
        return ratings_digest(connection)


def contents(database: Database) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table, as the code sees it."""
    with database.read() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
            for table in tables()
        }


def a_little_of_everything(database: Database, settings: Settings) -> None:
    """Ratings, erased ones, described items, a trained version, and a key that was given out and is free again."""
    fill(database)
    with database.write() as connection:
        fields = {
            "title": 'Ünder "quotes"\t\\',
            "categories": ["a", "b"],
            "attributes": {"n": [1, None]},
            "hidden": True,
        }
        items.put(connection, "item-1", fields)
        save(connection, "last-user", "last-item", 3.0, None, database.now(connection))
    with database.write() as connection:
        erase_user(connection, "last-user")
        erase_item(connection, "last-item")
        store.remove(connection, "user-1", store_item_of(connection, "user-1"))
    train(database, settings)


def store_item_of(connection: object, user_id: str) -> str:
    [first, *_], _ = store.page_of_user(connection, user_id, 1, None)  # type: ignore[arg-type]
    return str(first.item_id)


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
                    (user_ratings.read_one(connection, "new-user").user_key, items.key_of(connection, "new-item"))
                )
    assert keys[0] == keys[1]


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


def write_until(database: Database, stop: threading.Event, seed: int) -> None:
    dice = random.Random(seed)
    while not stop.is_set():
        with database.write() as connection:
            rated = [NewRating(f"user-{dice.randrange(60)}", f"item-{dice.randrange(50)}", 3.0) for _ in range(40)]
            store.save_many(connection, rated)


def test_a_backup_under_writes_is_the_state_of_its_revision(
    database: Database, settings: Settings, target: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest is computed in the same transaction; the rows must belong to the very same state."""
    monkeypatch.setattr(backup_tables, "PAGE_NUMBERS", 50)
    fill(database)
    stop = threading.Event()
    writers = [threading.Thread(target=write_until, args=(database, stop, seed)) for seed in range(2)]
    for writer in writers:
        writer.start()
    try:
        made = [back_up(database, settings, tmp_path / f"{number}.zip") for number in range(3)]
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert made[0].revision < made[-1].revision
    with opened(target) as other:
        for number, backup in enumerate(made):
            back = restore(other, target, tmp_path / f"{number}.zip", replace=number > 0)
            assert (back.digest, back.revision) == (backup.digest, backup.revision)
            assert digest_of(other) == backup.digest
            with other.read() as connection:
                assert load_all(connection).revision == backup.revision
                newest = max(connection.exec_driver_sql("SELECT max(revision) FROM ratings").scalars())
                assert newest == backup.revision


def test_every_table_is_backed_up(database: Database) -> None:
    there = set(inspect(database.engine).get_table_names()) - {migrations.VERSION_TABLE}
    assert {table.name for table in tables()} == there - {
        "idempotent_responses"
    }  # of the last day, of this deployment only


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


def with_other_manifest(archive: Path, old: bytes, new: bytes) -> Path:
    """A copy of the archive that says something else of what it holds."""
    changed = archive.with_name("changed.zip")
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(changed, "w") as other:
        for name in whole.namelist():
            body = whole.read(name)
            if name == "manifest.json":
                assert old in body
                body = body.replace(old, new)
            other.writestr(name, body)
    return changed


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


def test_a_damaged_version_is_reported_and_does_not_prevent_a_backup(
    database: Database, settings: Settings, target: Settings, tmp_path: Path
) -> None:
    registry.publish_many(database, settings.versions_dir, [3.0, 4.0])
    shutil.rmtree(settings.versions_dir / "version-3.0")
    made = back_up(database, settings, tmp_path / "backup.zip")
    assert made.n_versions == 1
    assert "version-3.0" in made.warnings[0]
    with opened(target) as other:
        back = restore(other, target, tmp_path / "backup.zip")
    assert back.warnings == made.warnings


def test_a_version_pruned_in_the_meantime_restarts_the_backup(
    sqlite_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.backup import backup as module
    from app.registry import versions

    add_version, pruned = module._add_version, []

    def prune_first(archive, versions_dir, row):  # type: ignore[no-untyped-def]
        if not pruned:
            pruned.extend(versions.prune(database, versions_dir, keep=1))
        return add_version(archive, versions_dir, row)

    with opened(sqlite_settings) as database:
        registry.publish_many(database, sqlite_settings.versions_dir, [3.0, 4.0])
        monkeypatch.setattr(module, "_add_version", prune_first)
        made = back_up(database, sqlite_settings, tmp_path / "backup.zip")
    assert pruned == [1]
    assert (made.n_versions, made.warnings) == (1, ())


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
