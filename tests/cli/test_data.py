"""Import and export as their user sees them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.runner import RATINGS, palate, refusal


def test_an_export_to_a_missing_folder_is_reported_in_one_line(tmp_path: Path) -> None:
    palate("import", "-", stdin=RATINGS)
    missing = tmp_path / "missing" / "ratings.csv"
    assert refusal(palate("export", missing)) == f"{missing}: No such file or directory"


def test_an_import_that_is_interrupted_says_what_was_saved(tmp_path: Path) -> None:
    importing = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "import", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PALATE_IMPORTS_BATCH_SIZE": "1000"},
        text=True,
    )
    assert importing.stdin is not None
    importing.stdin.write("".join(f"user-{n},dune,4\n" for n in range(100_000)))  # more than a block; no end follows
    importing.stdin.flush()
    wait_for_ratings(tmp_path / "data")
    importing.send_signal(signal.SIGINT)
    output, complaint = importing.communicate(timeout=60)
    saved = int(output.split()[0].replace(",", ""))
    assert importing.returncode == 130
    assert complaint.splitlines() == ["stopped by Ctrl-C; the rows counted above are saved"]
    assert output.startswith(f"{saved:,} ratings created, 0 updated, 0 unchanged, 0 bad lines; revision {saved}")
    assert len(palate("export", "-").stdout.splitlines()) == saved > 0


def wait_for_ratings(data_dir: Path) -> None:
    """Until an import has committed something."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (data_dir / "palate.db").exists() and '"' in palate("export", "-").stdout:
            return
        time.sleep(0.05)
    pytest.fail("nothing was imported")


def test_options_set_the_format_and_the_encoding_of_a_file(tmp_path: Path) -> None:
    movies = tmp_path / "movies.dat"
    movies.write_bytes("1::Misérables, Les::Drama\n".encode("latin-1"))
    assert palate("import-items", movies).output.startswith("0 items created")
    options = ("--encoding", "latin-1", "--format", "double_colon")
    assert palate("import-items", movies, *options).output.startswith("1 items created")
    assert palate("import", "-", *options, stdin="ann::1::4\n").output.startswith("1 ratings created")
    assert "line 1" in refusal(palate("import", "-", "--format", "tsv", stdin="ann::1::4\n"))
