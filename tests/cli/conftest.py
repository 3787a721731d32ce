from pathlib import Path

import pytest

from tests.conftest import KERNELS


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings reach a command through variables; --data-dir sets one, which must not outlive the test."""
    monkeypatch.setenv("PALATE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PALATE_KERNEL_CACHE_DIR", str(KERNELS))
