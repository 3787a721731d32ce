from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.db.engine import Database, open_database
from app.errors import NotFound
from app.ratings import erasure, store
from app.ratings.models import NewRating
from app.settings import Settings
from app.training.snapshot import file, update
from app.training.snapshot.take import TrainingSnapshot, take_snapshot
from tests.ratings.writing import save
from tests.training.world import fill, ratings_of


def _same(one: TrainingSnapshot, other: TrainingSnapshot) -> bool:
    arrays = [(one.user_keys, other.user_keys), (one.item_keys, other.item_keys)]
    return (
        one.digest() == other.digest()
        and one.revision == other.revision
        and all(np.array_equal(left, right) for left, right in arrays)
    )


def _change(database: Database, random: np.random.Generator, turn: int) -> None:
    """New ratings of old and new users and items, other values, deletions, and now and then an erasure."""
    users = [f"user-{n}" for n in random.integers(0, 70 + turn, 30)]
    items = [f"item-{n}" for n in random.integers(0, 45 + turn, 30)]
    given = {pair: float(random.integers(1, 10)) / 2 for pair in zip(users, items, strict=True)}
    fill(database, [NewRating(*pair, value) for pair, value in given.items()])
    with database.write() as connection:
        for user, item in list(given)[:8]:
            store.remove(connection, user, item)
        if turn % 2:
            erasure.erase_user(connection, users[-1])
        if turn % 3 == 2:
            erasure.erase_item(connection, items[-1])


@pytest.mark.parametrize("write_all_above", [0.0, 0.2, 1e9])
def test_changes_give_the_very_snapshot_that_reading_everything_gives(
    database: Database,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    write_all_above: float,
) -> None:
    monkeypatch.setattr(update, "_WRITE_ALL_ABOVE", write_all_above)
    fill(database, ratings_of(60, 40))
    random = np.random.default_rng(1)
    assert _same(take_snapshot(database, folder), take_snapshot(database))
    for turn in range(8):
        _change(database, random, turn)
        assert _same(take_snapshot(database, folder), take_snapshot(database))
    assert not caplog.records  # every one of them from what was stored


@pytest.mark.parametrize("seed", range(6))
def test_any_history_of_small_worlds_is_followed_exactly(
    sqlite_settings: Settings,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seed: int,
) -> None:
    """Few users and items, so that they come, go for good and come back, and pairs change again and again."""
    database = open_database(sqlite_settings)
    random = np.random.default_rng([3, seed])
    monkeypatch.setattr(update, "_WRITE_ALL_ABOVE", float(random.choice([0.0, 0.3, 1e9])))
    fill(database, _few_ratings(random, 5))
    take_snapshot(database, folder)
    before: list[int] = [0]
    for _ in range(25):
        for _ in range(random.integers(0, 4)):
            _change_a_little(database, random)
        since = int(random.choice(before)) if random.random() < 0.5 else None
        found, read_all = (take_snapshot(database, one, changed_since=since) for one in (folder, None))
        assert _same(found, read_all)
        assert (found.changed is None) == (since is None)
        if since is not None:
            assert np.array_equal(found.changed, read_all.changed)
        before.append(found.revision)
    assert not caplog.records
    database.dispose()


def _few_ratings(random: np.random.Generator, n: int) -> list[NewRating]:
    pairs = {(f"u{random.integers(0, 12)}", f"i{random.integers(0, 9)}") for _ in range(n)}
    return [NewRating(*pair, float(random.integers(1, 10)) / 2) for pair in sorted(pairs)]


def _change_a_little(database: Database, random: np.random.Generator) -> None:
    what, ratings = random.random(), _few_ratings(random, int(random.integers(1, 9)))
    if what < 0.5:
        fill(database, ratings)
        return
    with database.write() as connection:
        if what < 0.85:
            for one in ratings:
                with suppress(NotFound):
                    store.remove(connection, one.user_id, one.item_id)
        with suppress(NotFound):
            if what > 0.92:
                erasure.erase_user(connection, ratings[0].user_id)
            elif what > 0.85:
                erasure.erase_item(connection, ratings[0].item_id)


def test_nothing_new_gives_the_same_snapshot_again(database: Database, folder: Path) -> None:
    fill(database)
    first = take_snapshot(database, folder)
    written = sorted(folder.iterdir())
    assert _same(take_snapshot(database, folder), first)
    assert sorted(folder.iterdir()) == written


def test_an_empty_database_is_stored_and_filled_later(database: Database, folder: Path) -> None:
    assert len(take_snapshot(database, folder).ratings) == 0
    fill(database)
    assert _same(take_snapshot(database, folder), take_snapshot(database))


@pytest.mark.parametrize("is_stored", [True, False])
def test_the_ratings_that_are_newer_than_a_revision_are_named(
    database: Database, folder: Path, is_stored: bool
) -> None:
    fill(database)
    before = take_snapshot(database, folder if is_stored else None).revision
    fill(database, [NewRating("user-1", "item-1", 0.5), NewRating("a-user", "item-2", 4.0)])
    with database.write() as connection:
        [item] = connection.exec_driver_sql("SELECT item_id FROM items ORDER BY item_key LIMIT 1").scalars()
        save(connection, "user-5", item, 2.25, None, database.now(connection))
        store.remove(connection, "user-5", item)
    for _ in range(2):  # read from the database, and then from what is stored
        found = take_snapshot(database, folder if is_stored else None, changed_since=before)
        assert found.changed is not None
        users = found.user_ids.ids_of(found.ratings.user_rows[found.changed])
        items = found.item_ids.ids_of(found.ratings.item_rows[found.changed])
        assert set(zip(users, items, strict=True)) == {("user-1", "item-1"), ("a-user", "item-2")}


class _Killed(BaseException):
    """What kill -9 is to a process: nothing of it goes on."""


def _die_at_step(monkeypatch: pytest.MonkeyPatch, n: int) -> list[int]:
    """Whatever touches the folder for the n-th time does half of it, and nothing more happens; counts the steps."""
    steps = [0]

    def stepped(act: Callable[..., object], half: Callable[..., object]) -> Callable[..., object]:
        def step(*given: Any, **named: Any) -> object:
            steps[0] += 1
            if steps[0] == n:
                half(*given)
            if steps[0] >= n:
                raise _Killed
            return act(*given, **named)

        return step

    def half_an_array(opened: Any, array: np.ndarray) -> None:
        opened.write(array.tobytes()[: array.nbytes // 2])

    monkeypatch.setattr(file.np, "save", stepped(np.save, half_an_array))
    monkeypatch.setattr(Path, "write_text", stepped(Path.write_text, lambda path, _text: path.write_bytes(b"{")))
    monkeypatch.setattr(Path, "replace", stepped(Path.replace, lambda *_: None))
    monkeypatch.setattr(Path, "unlink", stepped(Path.unlink, lambda *_: None))
    return steps


@pytest.mark.parametrize("write_all_above", [0.0, 1e9])
def test_a_trainer_killed_at_any_step_leaves_the_state_before_or_the_one_after(
    sqlite_settings: Settings,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    write_all_above: float,
) -> None:
    database = open_database(sqlite_settings)
    monkeypatch.setattr(update, "_WRITE_ALL_ABOVE", write_all_above)
    fill(database)
    take_snapshot(database, folder)
    n, is_killed = 0, True
    while is_killed:
        n += 1
        fill(database, [NewRating("user-1", "item-1", 0.5 + n % 5)])
        with monkeypatch.context() as killing:
            steps = _die_at_step(killing, n)
            with suppress(_Killed):
                take_snapshot(database, folder)
            is_killed = steps[0] >= n
        assert _same(take_snapshot(database, folder), take_snapshot(database))
    assert n > 10
    assert not caplog.records  # never read anew
    database.dispose()


@pytest.mark.parametrize(("first_changes", "second_changes"), [(1, 1), (1, 300), (300, 1), (300, 300)])
def test_two_trainers_that_store_at_once_leave_a_snapshot_that_is_right_or_unused(
    database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch, first_changes: int, second_changes: int
) -> None:
    monkeypatch.setattr(update, "_WRITE_ALL_ABOVE", 0.1)
    fill(database, ratings_of(60, 40))
    take_snapshot(database, folder)
    random = np.random.default_rng(2)
    fill(database, _random_ratings(random, first_changes))
    store_merged = update._store_merged

    def late(*given: Any, **named: Any) -> None:  # the other trainer begins and ends before this one stores
        with monkeypatch.context() as other:
            other.setattr(update, "_store_merged", store_merged)
            fill(database, _random_ratings(random, second_changes))
            take_snapshot(database, folder)
        store_merged(*given, **named)

    with monkeypatch.context() as one:
        one.setattr(update, "_store_merged", late)
        take_snapshot(database, folder)
    for _ in range(2):
        assert _same(take_snapshot(database, folder), take_snapshot(database))
        fill(database, _random_ratings(random, 5))


def _random_ratings(random: np.random.Generator, n: int) -> list[NewRating]:
    pairs = {(f"user-{random.integers(0, 65)}", f"item-{random.integers(0, 45)}") for _ in range(n)}
    return [NewRating(*pair, float(random.integers(1, 10)) / 2) for pair in sorted(pairs)]


def test_a_snapshot_of_another_database_is_not_used(
    database: Database, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import migrations

    elsewhere = Settings(data_dir=tmp_path / "elsewhere")
    other = open_database(elsewhere)
    migrations.upgrade(other, elsewhere)
    fill(other, ratings_of(seed=1))
    fill(database, ratings_of(seed=1)[::-1])  # as many, with the same revisions, under other keys
    take_snapshot(other, folder)
    other.dispose()
    assert _same(take_snapshot(database, folder), take_snapshot(database))
    assert any("belongs to another" in record.message for record in caplog.records)


def test_a_database_put_back_to_an_earlier_state_is_read_all(database: Database, folder: Path) -> None:
    fill(database)
    take_snapshot(database, folder)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE counters SET value = value - 1 WHERE name = 'ratings'")
        connection.exec_driver_sql("UPDATE ratings SET value = 3.5")
    assert _same(take_snapshot(database, folder), take_snapshot(database))


def test_of_an_erased_user_nothing_stays_behind(database: Database, folder: Path) -> None:
    fill(database, [*ratings_of(), NewRating("somebody-unmistakable", "item-1", 4.0)])
    take_snapshot(database, folder)
    assert any(b"somebody-unmistakable" in file.read_bytes() for file in folder.iterdir())
    with database.write() as connection:
        erasure.erase_user(connection, "somebody-unmistakable")
    take_snapshot(database, folder)
    assert not any(b"somebody-unmistakable" in file.read_bytes() for file in folder.iterdir())


def test_a_folder_that_cannot_be_written_costs_time_only(
    database: Database, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(database)
    folder.write_text("not a folder")
    assert _same(take_snapshot(database, folder), take_snapshot(database))
    assert any("cannot be" in record.message for record in caplog.records)
