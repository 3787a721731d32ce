"""One file that holds many: a zip archive with a checksum of every member, and a manifest that is written last.

Any zip program opens it. It is written under another name and renamed when it is whole and on disk; only its owner
may read it.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.atomic_files import replacing
from app.errors import Damaged

FORMAT = 1
"""Grows when older code could not read what newer code writes."""
MANIFEST = "manifest.json"
_BLOCK = 1 << 20
_LONGEST_MANIFEST = 1 << 26
_LEVEL = 1  # of compression: the next ones take twice as long for some percent
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, OverflowError, RuntimeError, ValueError)
"""What reading a zip file with wrong bytes raises; a flipped bit asks for a password, or for a later zip."""


class DamagedArchive(Damaged):
    """An archive that cannot be restored from: says what is wrong with it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}; nothing was changed")
        self.path = path
        self.reason = reason


class ArchiveWriter:
    """Adds members one after the other, and notes what each must hold."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file
        self._members: dict[str, dict[str, Any]] = {}

    def add(self, name: str, blocks: Iterator[bytes], *, is_packed: bool = True) -> None:
        """A member of these blocks; what does not pack, such as factors, is better stored as it is."""
        member = zipfile.ZipInfo(name)
        member.compress_type = zipfile.ZIP_DEFLATED if is_packed else zipfile.ZIP_STORED
        member._compresslevel = _LEVEL  # type: ignore[attr-defined]  # public from Python 3.13 on
        digest, n_bytes = hashlib.sha256(), 0
        with self._file.open(member, "w", force_zip64=True) as out:
            for block in blocks:
                digest.update(block)
                n_bytes += len(block)
                out.write(block)
        self._members[name] = {"sha256": digest.hexdigest(), "bytes": n_bytes}

    def finish(self, facts: Mapping[str, Any]) -> None:
        """The manifest, without which an archive is none."""
        manifest = {"format": FORMAT, **facts, "members": self._members}
        self._file.writestr(MANIFEST, json.dumps(manifest, indent=1))


@contextmanager
def writing(path: Path) -> Iterator[ArchiveWriter]:
    """A new archive at `path`, in place of what is there; an error leaves what is there."""
    with replacing(path) as temporary:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w+b") as file, zipfile.ZipFile(file, "w") as archive:
            yield ArchiveWriter(archive)


class Archive:
    """An archive that is read; `manifest` says what is in it."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self._path = path
        self._file = file
        self.manifest = self._read_manifest()

    def check(self) -> None:
        """Read everything and compare it with what was written; raises DamagedArchive."""
        for name, expected in self.manifest["members"].items():
            digest, n_bytes = hashlib.sha256(), 0
            if self._n_bytes(name) != expected["bytes"]:  # before it is unpacked
                raise self.damaged(f"{name} has another length than was written")
            for block in self.blocks(name):
                digest.update(block)
                n_bytes += len(block)
            if (digest.hexdigest(), n_bytes) != (expected["sha256"], expected["bytes"]):
                raise DamagedArchive(self._path, f"is damaged: {name} holds other bytes than were written")

    def blocks(self, name: str) -> Iterator[bytes]:
        """A member in pieces; raises DamagedArchive."""
        with self._told_as_damage(name), self._file.open(name) as member:
            while block := member.read(_BLOCK):
                yield block

    def read(self, name: str) -> bytes:
        """A whole member; raises DamagedArchive."""
        return b"".join(self.blocks(name))

    def damaged(self, reason: str) -> DamagedArchive:
        return DamagedArchive(self._path, f"is damaged: {reason}")

    def _n_bytes(self, name: str) -> int:
        """Of a member once it is unpacked, beyond which nothing of it is read."""
        with self._told_as_damage(name):
            return self._file.getinfo(name).file_size

    def _read_manifest(self) -> dict[str, Any]:
        manifest = None
        if self._n_bytes(MANIFEST) > _LONGEST_MANIFEST:
            raise DamagedArchive(self._path, "is not a backup of Palate")
        with self._told_as_damage(MANIFEST):
            manifest = json.loads(self._file.read(MANIFEST))
        if not isinstance(manifest, dict) or not isinstance(manifest.get("members"), dict):
            raise DamagedArchive(self._path, "is not a backup of Palate")
        if manifest.get("format") != FORMAT:
            found = manifest.get("format")
            raise DamagedArchive(self._path, f"has format {found!r}; this release reads format {FORMAT}")
        return manifest

    @contextmanager
    def _told_as_damage(self, name: str) -> Iterator[None]:
        try:
            yield
        except KeyError as error:
            raise DamagedArchive(self._path, f"has no {name}: it is not a whole backup") from error
        except _BROKEN as error:
            raise self.damaged(f"{name}: {error}") from error


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Raises DamagedArchive, or OSError where there is no such file."""
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except _BROKEN as error:
            raise DamagedArchive(path, "is not a whole backup") from error
        with archive:
            yield Archive(path, archive)
