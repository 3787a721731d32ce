"""A model version on disk: a folder written once, checked when it is opened, and mapped read-only.

`write` makes the folder under a temporary name and renames it when every byte is on disk, so a folder under its
final name is complete. Nothing in it is ever written again: numbers would change under live readers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.atomic_files import replacing
from app.engine.arrays import InvalidArray, Rows, mapped
from app.engine.data.id_search import look_up_rows
from app.engine.data.ratings import Vocabulary
from app.engine.factors import FactorModel
from app.engine.fold_in.fold_in import FoldIn
from app.engine.losses.base import Loss
from app.engine.retrieval.index import TopNIndex, build_retriever
from app.engine.retrieval.retriever import Retriever
from app.errors import Damaged

FORMAT = 2
"""Grows when older code could not read what newer code writes. 2: the loss is more than a text."""
_READABLE = (1, 2)

MANIFEST = "manifest.json"

Keys = npt.NDArray[np.int64]
Manifest = dict[str, Any]

_EXAMINER = "examiner_"
_PUBLISHED_START = "published_start_"
_EXAMINED_START = "examined_start_"
_KEPT = (_EXAMINER, _PUBLISHED_START, _EXAMINED_START)
"""Prefixes of the files of models that do not answer."""
_INDEX = "index2_"
"""Prefix of the arrays of the index of the best items, with its format; a version of few items has none.

Folders with an index of another format, or written before there were any, get one when they are loaded.
"""
_NOT_HERE = -1


class DamagedVersion(Damaged):
    """A version folder that must not answer: says which file and what is wrong with it."""

    def __init__(self, folder: Path, file: str, reason: str) -> None:
        super().__init__(f"model version folder {folder.name}: {file} {reason}")
        self.folder = folder
        self.file = file
        self.reason = reason


@dataclass(frozen=True, slots=True)
class VersionContents:
    """What a version stores besides facts about it. Rows of the model and of the three others are the same.

    `examiner` is the item side of the fit that never saw the hold-out: a later run is measured against it, on
    ratings that neither has learned from.
    """

    model: FactorModel
    user_keys: Keys
    item_keys: Keys
    item_ids: Vocabulary
    examiner: FactorModel | None = None
    published_start: FactorModel | None = None
    examined_start: FactorModel | None = None
    """The fits behind model and examiner where those are averages: what a later run may go on from."""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Every array by the name of its file."""
        text, offsets = self.item_ids.to_arrays()
        named: dict[str, npt.NDArray[Any]] = dict(self.model.arrays())
        named |= {"item_ids_text": text, "item_ids_offsets": offsets}
        named |= {"user_keys": self.user_keys, "item_keys": self.item_keys}
        named |= {"user_row_of_key": rows_by_key(self.user_keys), "item_row_of_key": rows_by_key(self.item_keys)}
        if index := TopNIndex.build(self.model):
            named |= {f"{_INDEX}{name}": array for name, array in index.arrays().items()}
        for prefix, kept in zip(_KEPT, (self.examiner, self.published_start, self.examined_start), strict=True):
            if kept:
                named |= {f"{prefix}{name}": array for name, array in kept.arrays().items()}
        return named


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version that answers: its arrays are read-only maps, shared by every process on the machine."""

    version: int
    trained_through: int
    model: FactorModel
    item_ids: Vocabulary
    item_keys: Keys
    user_keys: Keys
    manifest: Manifest
    fold_in: FoldIn
    retriever: Retriever
    _item_row_of_key: Rows
    _user_row_of_key: Rows
    derived: dict[str, Any] = field(default_factory=dict)
    """For whoever answers from this version: things computed once per version; they go when it goes."""

    def item_rows_of(self, item_keys: npt.NDArray[np.integer]) -> Rows:
        """The row of each item key, -1 for items that the version does not know."""
        return look_up(self._item_row_of_key, item_keys)

    def user_row_of(self, user_key: int) -> int | None:
        """The row of a user key, or None when the version does not know the user."""
        if not 0 <= user_key < self._user_row_of_key.size:
            return None
        row = int(self._user_row_of_key[user_key])
        return None if row == _NOT_HERE else row


@dataclass(frozen=True, slots=True)
class Examiner:
    """A version's own fit, before it learned the hold-out; its users too where a later run may go on from it."""

    model: FactorModel
    item_row_of_key: Rows
    user_row_of_key: Rows


def rows_by_key(keys: Keys) -> Rows:
    """Row of each database key, -1 where no row has it: one entry per key up to the largest."""
    table = np.full(int(keys.max()) + 1 if keys.size else 0, _NOT_HERE, np.int32)
    table[keys] = np.arange(keys.size, dtype=np.int32)
    return table


def look_up(table: Rows, keys: npt.NDArray[np.integer]) -> Rows:
    """`table[key]` of each key, -1 for keys beyond the table."""
    found = np.empty(keys.size, np.int32)
    look_up_rows(table, np.ascontiguousarray(keys, np.int64), found)
    return found


def write(versions_dir: Path, name: str, contents: VersionContents, facts: Mapping[str, Any]) -> Manifest:
    """Write the folder `name` once and for all and return its manifest, which is in the folder too.

    When this returns, files, folder and its name are on disk. An error leaves nothing, a killed process a temporary
    folder.
    """
    versions_dir.mkdir(parents=True, exist_ok=True)
    with replacing(versions_dir / name) as temporary:
        temporary.mkdir()
        return _fill(temporary, contents, facts)


def _fill(folder: Path, contents: VersionContents, facts: Mapping[str, Any]) -> Manifest:
    files = {f"{array_name}.npy": array for array_name, array in contents.arrays().items()}
    manifest: Manifest = {
        "format": FORMAT,
        **facts,
        "model_digest": contents.model.digest(),
        "n_users": contents.model.n_users,
        "n_items": contents.model.n_items,
        "n_factors": contents.model.n_factors,
        "files": {file: _write_array(folder / file, array) for file, array in files.items()},
    }
    text = json.dumps(manifest, indent=2, allow_nan=False)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    written: Manifest = json.loads(text)
    return written


def verify(folder: Path, published: Manifest | None = None) -> Manifest:
    """The manifest of a folder whose every file is what was written; raises DamagedVersion.

    `published` is what the database says of the version: a manifest that says something else is damaged too.
    """
    manifest = _read_manifest(folder)
    if published is not None and manifest != published:
        raise DamagedVersion(folder, MANIFEST, "is not the one that was published")
    for file, expected in manifest["files"].items():
        _check_size(folder, file, expected["bytes"])
    for file, expected in manifest["files"].items():
        _check_digest(folder, file, expected["sha256"])
    return manifest


def load(folder: Path, version: int, published: Manifest | None = None) -> LoadedVersion:
    """Verify the folder and map it; raises DamagedVersion."""
    manifest = verify(folder, published)
    arrays = _map(folder, [file for file in manifest["files"] if not file.startswith(_KEPT)])
    try:
        model = FactorModel.from_arrays(arrays, Loss.from_dict(manifest["loss"]))
        return LoadedVersion(
            version=version,
            trained_through=int(manifest["trained_through"]),
            model=model,
            item_ids=Vocabulary.from_arrays(arrays["item_ids_text"], arrays["item_ids_offsets"]),
            item_keys=arrays["item_keys"],
            user_keys=arrays["user_keys"],
            manifest=manifest,
            fold_in=FoldIn(model),
            retriever=_retriever(model, arrays),
            _item_row_of_key=arrays["item_row_of_key"],
            _user_row_of_key=arrays["user_row_of_key"],
        )
    except InvalidArray as invalid:
        raise DamagedVersion(folder, f"{invalid.name}.npy", invalid.reason) from invalid
    except KeyError as missing:
        raise DamagedVersion(folder, MANIFEST, f"lacks {missing}") from missing


def _retriever(model: FactorModel, arrays: Mapping[str, npt.NDArray[Any]]) -> Retriever:
    """The stored index; folders without one of this format get it now."""
    stored = {name.removeprefix(_INDEX): array for name, array in arrays.items() if name.startswith(_INDEX)}
    return TopNIndex.from_arrays(model, stored) if stored else build_retriever(model)


def load_examiner(folder: Path, published: Manifest | None = None) -> Examiner | None:
    """The fit of this version that never saw the hold-out, or None when it had none; raises DamagedVersion."""
    manifest = verify(folder, published)
    model = _load_kept(folder, manifest, _EXAMINER)
    if model is None:
        return None
    return Examiner(model, _map_array(folder, "item_row_of_key.npy"), _map_array(folder, "user_row_of_key.npy"))


def load_starts(folder: Path, published: Manifest | None = None) -> tuple[FactorModel, FactorModel] | None:
    """The fits behind the published model and the examiner, where those are averages; raises DamagedVersion."""
    manifest = verify(folder, published)
    of_published = _load_kept(folder, manifest, _PUBLISHED_START)
    examined = _load_kept(folder, manifest, _EXAMINED_START)
    return (of_published, examined) if of_published and examined else None


def _load_kept(folder: Path, manifest: Manifest, prefix: str) -> FactorModel | None:
    files = [file for file in manifest["files"] if file.startswith(prefix)]
    if not files:
        return None
    try:
        arrays = {name.removeprefix(prefix): array for name, array in _map(folder, files).items()}
        return FactorModel.from_arrays(arrays, Loss.from_dict(manifest["loss"]))
    except InvalidArray as invalid:
        raise DamagedVersion(folder, f"{prefix}{invalid.name}.npy", invalid.reason) from invalid


def folders(versions_dir: Path) -> list[Path]:
    """Every version folder on disk: published ones, half-written ones, and complete ones that were never listed."""
    return [path for path in versions_dir.iterdir() if path.is_dir()] if versions_dir.is_dir() else []


def remove(folder: Path) -> None:
    """Remove a version folder that no row speaks of any more; processes that have it mapped keep their maps."""
    shutil.rmtree(folder, ignore_errors=True)


def _write_array(path: Path, array: npt.NDArray[Any]) -> dict[str, Any]:
    with path.open("wb") as file:
        np.save(file, np.require(array, requirements="C"), allow_pickle=False)
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def _read_manifest(folder: Path) -> Manifest:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise DamagedVersion(folder, MANIFEST, _reason(error)) from error
    except ValueError as error:  # neither JSON nor UTF-8
        raise DamagedVersion(folder, MANIFEST, "cannot be parsed") from error
    if not isinstance(manifest, dict) or manifest.get("format") not in _READABLE:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise DamagedVersion(folder, MANIFEST, f"has format {found!r}; this service reads format {FORMAT}")
    if not _lists_files(manifest):
        raise DamagedVersion(folder, MANIFEST, "does not list its files")
    return manifest


def _lists_files(manifest: Manifest) -> bool:
    files = manifest.get("files")
    return isinstance(files, dict) and all(
        "/" not in file and isinstance(entry, dict) and entry.keys() >= {"sha256", "bytes"}
        for file, entry in files.items()
    )


def _check_size(folder: Path, file: str, expected: int) -> None:
    try:
        size = (folder / file).stat().st_size
    except OSError as error:
        raise DamagedVersion(folder, file, _reason(error)) from error
    if size != expected:
        raise DamagedVersion(folder, file, f"has {size} bytes instead of {expected}")


def _check_digest(folder: Path, file: str, expected: str) -> None:
    try:
        with (folder / file).open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise DamagedVersion(folder, file, _reason(error)) from error
    if found != expected:
        raise DamagedVersion(folder, file, "has other contents than were written (its checksum is wrong)")


def _map(folder: Path, files: list[str]) -> dict[str, npt.NDArray[Any]]:
    return {file.removesuffix(".npy"): _map_array(folder, file) for file in files}


def _map_array(folder: Path, file: str) -> npt.NDArray[Any]:
    try:
        return mapped(folder / file)
    except OSError as error:
        raise DamagedVersion(folder, file, _reason(error)) from error
    except ValueError as error:
        raise DamagedVersion(folder, file, "is not an array") from error


def _reason(error: OSError) -> str:
    return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
