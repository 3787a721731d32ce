"""`app.main:app`, as `uvicorn` loads it."""

import subprocess
import sys

import pytest


def test_a_server_started_without_the_command_refuses_invalid_settings_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PALATE_RATING_MIN", "9")
    started = subprocess.run(
        [sys.executable, "-c", "import app.main; app.main.app"], capture_output=True, text=True, check=False
    )
    assert started.returncode == 1
    assert started.stderr.splitlines() == ["PALATE_RATING: rating min 9.0 must be below rating max 5.0"]
