"""Files and folders that appear under their name complete, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp-"
"""Prefix of names that are still being written."""


@contextmanager
def replacing(path: Path, *, is_shared: bool = False, is_durable: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`: the file or folder that the block writes there is renamed to `path` at its end.

    An error removes what was written and leaves `path` as it was. A killed process leaves the temporary path behind;
    the next write removes it. A folder does not replace a folder that has files in it: that raises OSError.

    is_shared: several processes may write `path` at the same time; each uses its own temporary path.
    is_durable: the contents are on disk before the rename, and the rename before this returns.
    """
    own = f"-{secrets.token_hex(4)}" if is_shared else ""
    temporary = path.with_name(f"{TEMPORARY}{path.name}{own}")
    _remove(temporary)
    try:
        yield temporary
        if is_durable:
            _sync_all(temporary)
        temporary.replace(path)
    except BaseException:  # a full disk above all: the partial file would keep taking up space
        _remove(temporary)
        raise
    if is_durable:
        _sync(path.parent)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_all(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _sync_all(child)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
