"""The database that a backup is restored into."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from tests.backup.world import migrated
from tests.conftest import KERNELS, empty_postgres


@pytest.fixture(params=["to sqlite", "to postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Settings of another, empty service: each backup is restored into both kinds of database."""
    folder = tmp_path / "target"
    if request.param == "to sqlite":
        yield migrated(Settings(data_dir=folder, trainer="external", kernel_cache_dir=KERNELS))
        return
    with empty_postgres(request) as url:
        yield Settings(data_dir=folder, trainer="external", kernel_cache_dir=KERNELS, database_url=url)
