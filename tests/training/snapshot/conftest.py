from pathlib import Path

import pytest

from app.training.snapshot import update


@pytest.fixture(autouse=True)
def apply_all_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a small world even a few changes are a large share; here they are applied all the same."""
    monkeypatch.setattr(update, "_READ_ALL_ABOVE", 1e9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "snapshot"
