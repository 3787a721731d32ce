"""A backup by the command while a service is being written to, restored into the other kind of database."""

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

import migrations
from app.db.engine import Database, open_database
from app.demo.service_process import running_service
from app.settings import Settings
from tests.conftest import KERNELS, empty_postgres
from tests.test_database_away import Load
from tests.training.world import fill, train

ROWS = """
    SELECT user_id, item_id, ratings.value, rated_at, ratings.revision FROM ratings
    JOIN users ON users.user_key = ratings.user_key JOIN items ON items.item_key = ratings.item_key
    WHERE ratings.revision <= :revision ORDER BY ratings.revision"""
QUESTIONS = [f"/v1/users/user-{number}/recommendations?n=40" for number in range(20)] + ["/v1/items/item-3/similar"]


def palate(settings: Settings, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", *map(str, arguments)],
        env=environment(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment(settings: Settings) -> dict[str, str]:
    variables = {"PALATE_DATA_DIR": str(settings.data_dir), "PALATE_KERNEL_CACHE_DIR": str(KERNELS)}
    variables |= {"PALATE_TRAINER": "external"}
    return variables | ({"PALATE_DATABASE_URL": settings.database_url} if settings.database_url else {})


def rows_up_to(database: Database, revision: int) -> list[tuple[object, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(text(ROWS), {"revision": revision})]


@pytest.mark.soak
@pytest.mark.parametrize("number", range(3))
def test_a_backup_under_load_is_the_state_of_its_revision_in_the_other_database_and_recommends_the_same(
    database: Database, settings: Settings, tmp_path: Path, request: pytest.FixtureRequest, number: int
) -> None:
    """The load adds new pairs only, so what the source holds up to a revision is what it held at that revision."""
    fill(database)
    train(database, settings)
    archive = tmp_path / "backup.zip"
    with running_service(settings.data_dir, environment=environment(settings)) as service:
        with Load(service.url) as load:
            time.sleep(1 + 0.3 * number)
            output = palate(settings, "backup", archive)
            time.sleep(0.5)
        assert not load.failed
        with httpx.Client(base_url=service.url) as client:
            expected = [client.get(path).json() for path in QUESTIONS]
    revision = int(output.split("revision ")[1].split(";")[0])
    digest = output.split("digest ")[1].strip()

    folder = tmp_path / "restored"
    with empty_postgres(request) as url:
        target = Settings(data_dir=folder, database_url=url if database.is_sqlite else None)
        assert digest in palate(target, "restore", archive)
        assert palate(target, "digest").strip() == digest
        restored = open_database(target)
        found = rows_up_to(restored, 2**60)
        assert found == rows_up_to(database, revision)
        assert len(found) < len(rows_up_to(database, 2**60)), "the load must have gone on after the backup"
        restored.dispose()
        with running_service(folder, environment=environment(target)) as service, httpx.Client() as client:
            assert [client.get(service.url + path).json() for path in QUESTIONS] == expected
    assert migrations.is_usable(database)
