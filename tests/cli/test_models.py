"""`palate models` as its user sees it."""

import re

from app.db.engine import open_database
from app.settings import Settings
from tests.cli.runner import palate, refusal
from tests.registry.world import publish_many


def test_versions_are_listed_activated_and_deleted(sqlite_settings: Settings) -> None:
    database = open_database(sqlite_settings)
    publish_many(database, sqlite_settings.versions_dir, [3.0, 4.0])
    database.dispose()
    models = ("--data-dir", sqlite_settings.data_dir, "models")
    assert re.search(r"2 \(active\)[\s\S]*│ 1 ", palate(*models, "list").output)
    assert palate(*models, "activate", "1").output == "version 1 is active\n"
    assert "1 (active)" in palate(*models, "list").output
    assert "active" in refusal(palate(*models, "delete", "1"))
    assert palate(*models, "delete", "2").output == "version 2 is deleted\n"
    assert refusal(palate(*models, "activate", "2")) == "model version 2 does not exist"
