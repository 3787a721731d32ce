import re
import subprocess
import sys

from app.database import open_database
from app.settings import Settings
from tests.registry.world import publish

SERVICE = """
import sys, anyio
from app.main import create_app
from app.settings import Settings

async def serve():
    app = create_app(Settings.model_validate_json(sys.argv[1]))
    async with app.router.lifespan_context(app):
        pass

anyio.run(serve)
"""


def _log_of_a_service(settings: Settings) -> str:
    arguments = [sys.executable, "-c", SERVICE, settings.model_dump_json()]
    return subprocess.run(arguments, stderr=subprocess.PIPE, check=True, text=True).stderr


def test_what_the_service_says_has_its_time_and_its_place(sqlite_settings: Settings) -> None:
    database = open_database(sqlite_settings)
    version = publish(database, sqlite_settings.versions_dir)
    database.dispose()
    said = _log_of_a_service(sqlite_settings)
    line = rf"^\d{{4}}-\d\d-\d\d [\d:,]+ INFO service app\.registry\.live: model version {version} answers from now on$"
    assert re.search(line, said, re.MULTILINE)


def test_the_least_severe_level_is_the_one_of_the_settings(sqlite_settings: Settings) -> None:
    database = open_database(sqlite_settings)
    publish(database, sqlite_settings.versions_dir)
    database.dispose()
    assert _log_of_a_service(sqlite_settings.model_copy(update={"log_level": "warning"})) == ""
