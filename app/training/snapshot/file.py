"""The stored snapshot: the ratings of the last run on the trainer's host, so that the next one reads only changes.

A folder of arrays and a manifest. Arrays get new file names, and the manifest that lists them is replaced by one
rename, so a trainer that is killed leaves the old state or the new one. Nothing is synced to disk: a file damaged by a
power cut has a wrong checksum, and then the ratings are read from the database.

Ratings and vocabularies (the base) are rewritten only when enough has changed. Until then the changes since the base
are stored next to it, a hundredth of the bytes.
"""

from __future__ import annotations

import json
import logging
import secrets
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.atomic_files import replacing
from app.engine.arrays import InvalidArray, Offsets, Rows, Vector32, mapped
from app.engine.data.ratings import Vocabulary
from app.ratings.bulk_read import Changes
from app.registry.artifacts import Keys

log = logging.getLogger(__name__)

FORMAT = 2
MANIFEST = "manifest.json"
_KINDS: dict[str, type[np.generic]] = {
    "user_starts": np.int64,
    "item_rows": np.int32,
    "values": np.float32,
    "user_keys": np.int64,
    "item_keys": np.int64,
    "item_counts": np.int32,
    "user_ids_text": np.uint8,
    "user_ids_offsets": np.int64,
    "item_ids_text": np.uint8,
    "item_ids_offsets": np.int64,
    "changed_user_keys": np.int32,
    "changed_item_keys": np.int32,
    "changed_values": np.float32,
    "changed_revisions": np.int64,
}
_OF_BASE = ("user_starts", "item_rows", "values", "user_keys", "item_keys", "item_counts")
_CHANGED = tuple(name for name in _KINDS if name.startswith("changed_"))
_N_THREADS = 2

Arrays = dict[str, npt.NDArray[Any]]
Files = dict[str, dict[str, Any]]
"""File name, size and checksum of each array."""


class UnusableSnapshot(Exception):
    """The stored snapshot must not be used: says why. The ratings are read from the database instead."""


@dataclass(frozen=True, slots=True)
class Base:
    """Ratings sorted by (user_row, item_row), the start of each user's, and keys and ids of the rows."""

    user_starts: Offsets
    item_rows: Rows
    values: Vector32
    user_keys: Keys
    item_keys: Keys
    item_counts: Rows
    user_ids: Vocabulary
    item_ids: Vocabulary
    revision: int

    def arrays(self) -> Arrays:
        return {
            **{name: getattr(self, name) for name in _OF_BASE},
            **dict(zip(("user_ids_text", "user_ids_offsets"), self.user_ids.to_arrays(), strict=True)),
            **dict(zip(("item_ids_text", "item_ids_offsets"), self.item_ids.to_arrays(), strict=True)),
        }


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """The base, memory-mapped, and the changes since."""

    base: Base
    changes: Changes
    files: Files


@dataclass(frozen=True, slots=True)
class OpenedSnapshot:
    """A stored snapshot whose bytes are being verified by threads."""

    revision: int
    """Including the stored changes."""
    n_ratings: int
    """Ratings of the base."""
    _arrays: Mapping[str, Future[npt.NDArray[Any]]]
    _manifest: Mapping[str, Any]

    def verified(self) -> StoredSnapshot:
        """Waits until every byte is verified; raises UnusableSnapshot."""
        mapped = {name: array.result() for name, array in self._arrays.items()}
        try:
            return _as_stored(mapped, self._manifest)
        except ValueError as wrong:  # InvalidArray is one
            raise UnusableSnapshot(f"its files do not fit together ({wrong})") from wrong


@contextmanager
def opened(folder: Path) -> Iterator[OpenedSnapshot | None]:
    """The stored snapshot; None if there is none; raises UnusableSnapshot."""
    manifest = _read_manifest(folder)
    if manifest is None:
        yield None
        return
    files = manifest["files"]
    with ThreadPoolExecutor(_N_THREADS) as pool:
        by_size = sorted(_KINDS, key=lambda name: int(files[name]["size"]), reverse=True)
        arrays = {name: pool.submit(_map, folder, name, files[name]) for name in by_size}
        yield OpenedSnapshot(manifest["changed_revision"], files["values"]["size"], arrays, manifest)


def write(folder: Path, base: Base, changes: Changes, *, stored: Files | None = None) -> None:
    """Store base and changes; only the changes if `stored` are the files of this base."""
    folder.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    columns = changes.user_keys, changes.item_keys, changes.values, changes.revisions
    arrays: Arrays = dict(zip(_CHANGED, columns, strict=True))
    if stored is None:
        arrays = base.arrays() | arrays
    with ThreadPoolExecutor(_N_THREADS) as pool:
        written = pool.map(lambda name: _write(folder, f"{name}-{token}.npy", arrays[name]), arrays)
        files = (stored or {}) | dict(zip(arrays, written, strict=True))
    facts = {"format": FORMAT, "revision": base.revision, "changed_revision": changes.revision, "files": files}
    with replacing(folder / MANIFEST, is_shared=True, is_durable=False) as temporary:
        temporary.write_text(json.dumps(facts | {"crc32": _checksum_of_facts(facts)}, indent=2), encoding="utf-8")
    _remove_others(folder, {MANIFEST, *(entry["file"] for entry in files.values())})


def discard(folder: Path) -> None:
    """Remove the stored snapshot."""
    if folder.is_dir():
        _remove_others(folder, set())


def _as_stored(mapped: Arrays, manifest: Mapping[str, Any]) -> StoredSnapshot:
    base = Base(
        **{name: mapped[name] for name in _OF_BASE},
        user_ids=Vocabulary.from_arrays(mapped["user_ids_text"], mapped["user_ids_offsets"]),
        item_ids=Vocabulary.from_arrays(mapped["item_ids_text"], mapped["item_ids_offsets"]),
        revision=manifest["revision"],
    )
    users, items, values, revisions = (mapped[name] for name in _CHANGED)
    changes = Changes(users, items, values, revisions, manifest["changed_revision"])
    n_users, n_items = base.user_keys.size, base.item_keys.size
    sizes = (base.user_starts.size - 1, len(base.user_ids), base.item_counts.size, len(base.item_ids))
    if sizes != (n_users, n_users, n_items, n_items) or base.user_starts[-1] != base.values.size:
        raise InvalidArray("snapshot", f"holds {sizes} rows for {n_users} users and {n_items} items")
    if base.item_rows.size != base.values.size or len({mapped[name].size for name in _CHANGED}) != 1:
        raise InvalidArray("snapshot", "holds columns of unequal lengths")
    return StoredSnapshot(base, changes, manifest["files"])


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UnusableSnapshot(f"its manifest cannot be read ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UnusableSnapshot(f"it is not of format {FORMAT}")
    if manifest.pop("crc32", None) != _checksum_of_facts(manifest):
        raise UnusableSnapshot("its manifest was changed (its checksum is wrong)")
    return manifest


def _checksum_of_facts(facts: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def _map(folder: Path, name: str, entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    try:
        array = mapped(folder / entry["file"])
    except (OSError, ValueError, EOFError) as error:
        raise UnusableSnapshot(f"{name} cannot be read ({error})") from error
    if array.dtype != _KINDS[name] or array.ndim != 1 or array.size != entry["size"]:
        raise UnusableSnapshot(f"{name} does not have the length or type that was written")
    if _checksum(array) != entry["crc32"]:
        raise UnusableSnapshot(f"{name} was changed (its checksum is wrong)")
    return array


def _write(folder: Path, file: str, array: npt.NDArray[Any]) -> dict[str, Any]:
    array = np.ascontiguousarray(array)
    with (folder / file).open("wb") as opened:
        np.save(opened, array, allow_pickle=False)
    return {"file": file, "size": int(array.size), "crc32": _checksum(array)}


def _checksum(array: npt.NDArray[Any]) -> int:
    """CRC-32: detects accidental damage, and is the fastest in the standard library."""
    return zlib.crc32(array.view(np.uint8).data) if array.size else 0


def _remove_others(folder: Path, current: set[str]) -> None:
    for path in folder.iterdir():
        try:
            if path.name not in current:
                path.unlink()
        except OSError as error:
            log.warning("an old file of the snapshot cannot be removed: %s", error)
