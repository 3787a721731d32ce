"""A backup file: a zip archive with a checksum of every member, and a manifest that is written last.

It is written under a temporary name and renamed when it is complete and on disk; only its owner may read it.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.atomic_files import replacing
from app.errors import Damaged

FORMAT = 1
"""Incremented when older code cannot read what newer code writes."""
MANIFEST = "manifest.json"
_BLOCK = 1 << 20
_MAX_MANIFEST_BYTES = 1 << 26
_COMPRESSION_LEVEL = 1  # the next levels take twice as long and save a few percent
_READ_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, OSError, OverflowError, RuntimeError, ValueError),
)
"""Raised for a zip file with wrong bytes; a flipped bit can ask for a password or a newer zip version."""


class DamagedArchive(Damaged):
    """An archive that cannot be restored; the message says what is wrong with it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}; nothing was changed")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a backup holds, or a database after a restore."""

    n_ratings: int
    n_versions: int
    revision: int
    digest: str
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, manifest: Mapping[str, Any], *warnings: str) -> Summary:
        """The summary of a manifest, with its warnings and further ones."""
        n_ratings, n_versions = manifest["n_ratings"], len(manifest["versions"])
        return cls(n_ratings, n_versions, manifest["revision"], manifest["digest"], (*manifest["problems"], *warnings))


class ArchiveWriter:
    """Adds members to an archive and records their sizes and checksums."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file
        self._members: dict[str, dict[str, Any]] = {}

    def add(self, name: str, blocks: Iterator[bytes], *, is_compressed: bool = True) -> None:
        """Add a member; data that does not compress, such as factors, should be stored uncompressed."""
        member = zipfile.ZipInfo(name)
        member.compress_type = zipfile.ZIP_DEFLATED if is_compressed else zipfile.ZIP_STORED
        member._compresslevel = _COMPRESSION_LEVEL  # type: ignore[attr-defined]  # public from Python 3.13 on
        digest, n_bytes = hashlib.sha256(), 0
        with self._file.open(member, "w", force_zip64=True) as out:
            for block in blocks:
                digest.update(block)
                n_bytes += len(block)
                out.write(block)
        self._members[name] = {"sha256": digest.hexdigest(), "bytes": n_bytes}

    def finish(self, contents: Mapping[str, Any]) -> None:
        """Write the manifest, without which the archive is invalid."""
        manifest = {"format": FORMAT, **contents, "members": self._members}
        self._file.writestr(MANIFEST, json.dumps(manifest, indent=1))


@contextmanager
def new_archive(path: Path) -> Iterator[ArchiveWriter]:
    """Write an archive that replaces `path` when the block ends; an error leaves the old file."""
    with replacing(path) as temporary:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w+b") as file, zipfile.ZipFile(file, "w") as archive:
            yield ArchiveWriter(archive)


class Archive:
    """An archive opened for reading; `manifest` describes its contents."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self._path = path
        self._file = file
        self.manifest = self._read_manifest()

    def check(self) -> None:
        """Compare the size and the checksum of every member with the manifest; raises DamagedArchive."""
        for name, expected in self.manifest["members"].items():
            if self._n_bytes(name) != expected["bytes"]:  # before unpacking it
                raise self.damaged(f"{name} has a wrong length")
            with self._raising_damaged(name), self._file.open(name) as member:
                digest = hashlib.file_digest(member, "sha256")  # type: ignore[arg-type]
            if digest.hexdigest() != expected["sha256"]:
                raise self.damaged(f"{name} does not hold the bytes that were written")

    def blocks(self, name: str) -> Iterator[bytes]:
        """The contents of a member in blocks; raises DamagedArchive."""
        with self._raising_damaged(name), self._file.open(name) as member:
            while block := member.read(_BLOCK):
                yield block

    def read(self, name: str) -> bytes:
        """The contents of a member; raises DamagedArchive."""
        return b"".join(self.blocks(name))

    def damaged(self, reason: str) -> DamagedArchive:
        return DamagedArchive(self._path, f"is damaged: {reason}")

    def _n_bytes(self, name: str) -> int:
        """Uncompressed size of a member, beyond which nothing is read."""
        with self._raising_damaged(name):
            return self._file.getinfo(name).file_size

    def _read_manifest(self) -> dict[str, Any]:
        if self._n_bytes(MANIFEST) > _MAX_MANIFEST_BYTES:
            raise DamagedArchive(self._path, "is not a backup of Palate")
        with self._raising_damaged(MANIFEST):
            manifest = json.loads(self._file.read(MANIFEST))
        if not isinstance(manifest, dict) or not isinstance(manifest.get("members"), dict):
            raise DamagedArchive(self._path, "is not a backup of Palate")
        if manifest.get("format") != FORMAT:
            raise DamagedArchive(
                self._path, f"has format {manifest.get('format')!r}; this release reads format {FORMAT}"
            )
        return manifest

    @contextmanager
    def _raising_damaged(self, name: str) -> Iterator[None]:
        try:
            yield
        except KeyError as error:
            raise DamagedArchive(self._path, f"has no {name}: the backup is incomplete") from error
        except _READ_ERRORS as error:
            raise self.damaged(f"{name}: {error}") from error


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Raises DamagedArchive, or OSError if the file cannot be opened."""
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except _READ_ERRORS as error:
            raise DamagedArchive(path, "is not a complete backup") from error
        with archive:
            yield Archive(path, archive)
