"""A model version on disk: a folder that is written once, verified when it is opened, and mapped read-only.

`write` renames the folder to its final name when every byte is on disk, so a folder of that name is complete. Nothing
in it is ever written again: numbers would change under live readers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.atomic_files import replacing
from app.engine.arrays import InvalidArray, Rows, mapped
from app.engine.data.id_search import rows_by_key
from app.engine.data.ratings import Vocabulary
from app.engine.factors import FactorModel
from app.engine.fold_in.fold_in import FoldIn
from app.engine.losses.base import Loss
from app.engine.retrieval.index import TopNIndex, build_retriever
from app.engine.retrieval.retriever import Retriever
from app.errors import Damaged

FORMAT = 1
"""Grows when older code could not read what newer code writes."""

MANIFEST = "manifest.json"

Keys = npt.NDArray[np.int64]
Manifest = dict[str, Any]

_FOR_TRAINING = ("holdout_fit", "published_start", "holdout_start")
"""Fields of VersionContents that are not served, and prefixes of their files."""
_INDEX = "index_"
"""Prefix of the arrays of the top-N index; a version of few items has none."""


class DamagedVersion(Damaged):
    """A version folder that must not be served: names the file and what is wrong with it."""

    def __init__(self, folder: Path, file: str, reason: str) -> None:
        super().__init__(f"model version folder {folder.name}: {file} {reason}")
        self.folder = folder
        self.file = file
        self.reason = reason


@dataclass(frozen=True, slots=True)
class VersionContents:
    """The arrays that a version stores. All of its models have the same rows.

    `holdout_fit` is the item side of the fit that was not trained on the hold-out: a later run is compared with it, on
    ratings that neither was trained on.
    """

    model: FactorModel
    user_keys: Keys
    item_keys: Keys
    item_ids: Vocabulary
    holdout_fit: FactorModel | None = None
    published_start: FactorModel | None = None
    holdout_start: FactorModel | None = None
    """The fits that `model` and `holdout_fit` were averaged from, if they are averages: starts of a warm run."""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Every array by the name of its file."""
        text, offsets = self.item_ids.to_arrays()
        named: dict[str, npt.NDArray[Any]] = dict(self.model.arrays())
        named |= {"item_ids_text": text, "item_ids_offsets": offsets}
        named |= {"user_keys": self.user_keys, "item_keys": self.item_keys}
        named |= {"user_row_of_key": rows_by_key(self.user_keys), "item_row_of_key": rows_by_key(self.item_keys)}
        if index := TopNIndex.build(self.model):
            named |= {f"{_INDEX}{name}": array for name, array in index.arrays().items()}
        for prefix in _FOR_TRAINING:
            if fit := getattr(self, prefix):
                named |= {f"{prefix}_{name}": array for name, array in fit.arrays().items()}
        return named


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version that can be served: its arrays are read-only maps, shared by all processes on the machine."""

    version: int
    trained_through: int
    model: FactorModel
    item_ids: Vocabulary
    item_keys: Keys
    user_keys: Keys
    manifest: Manifest
    fold_in: FoldIn
    retriever: Retriever
    item_row_of_key: Rows
    user_row_of_key: Rows
    """Row of each key, -1 where no row has it; see `look_up`."""


@dataclass(frozen=True, slots=True)
class HoldoutFit:
    """A version's fit that was not trained on the hold-out; it has users if a warm run may start from it."""

    model: FactorModel
    item_row_of_key: Rows
    user_row_of_key: Rows


def write(versions_dir: Path, name: str, contents: VersionContents, facts: Mapping[str, Any]) -> Manifest:
    """Write the folder `name` and return its manifest, which is in the folder too.

    When this returns, all of it is on disk. An error leaves nothing, a killed process leaves a temporary folder. Raises
    OSError if the folder exists.
    """
    versions_dir.mkdir(parents=True, exist_ok=True)
    with replacing(versions_dir / name) as temporary:
        temporary.mkdir()
        files = {f"{array_name}.npy": array for array_name, array in contents.arrays().items()}
        manifest: Manifest = {
            "format": FORMAT,
            **facts,
            "model_digest": contents.model.digest(),
            "n_users": contents.model.n_users,
            "n_items": contents.model.n_items,
            "n_factors": contents.model.n_factors,
            "files": {file: _write_array(temporary / file, array) for file, array in files.items()},
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2, allow_nan=False), encoding="utf-8")
        return _read_manifest(temporary)


def verify(folder: Path, published: Manifest | None = None) -> Manifest:
    """The manifest of a folder whose files are all as written; raises DamagedVersion.

    `published` is the manifest in the database: a folder with a different one is damaged too.
    """
    manifest = _read_manifest(folder)
    if published is not None and manifest != published:
        raise DamagedVersion(folder, MANIFEST, "is not the one that was published")
    for file, expected in manifest["files"].items():
        with _reading(folder, file):
            size = (folder / file).stat().st_size
        if size != expected["bytes"]:
            raise DamagedVersion(folder, file, f"has {size} bytes instead of {expected['bytes']}")
    for file, expected in manifest["files"].items():
        with _reading(folder, file):
            digest = _sha256(folder / file)
        if digest != expected["sha256"]:
            raise DamagedVersion(folder, file, "has a wrong checksum: its contents have changed")
    return manifest


def load(folder: Path, version: int, published: Manifest | None = None) -> LoadedVersion:
    """Verify the folder and map it; raises DamagedVersion."""
    manifest = verify(folder, published)
    arrays = _map(folder, (file for file in manifest["files"] if not file.startswith(_FOR_TRAINING)))
    index = {name.removeprefix(_INDEX): array for name, array in arrays.items() if name.startswith(_INDEX)}
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
            retriever=TopNIndex.from_arrays(model, index) if index else build_retriever(model),
            item_row_of_key=arrays["item_row_of_key"],
            user_row_of_key=arrays["user_row_of_key"],
        )
    except InvalidArray as invalid:
        raise DamagedVersion(folder, f"{invalid.name}.npy", invalid.reason) from invalid
    except KeyError as missing:
        raise DamagedVersion(folder, MANIFEST, f"lacks {missing}") from missing


def load_holdout_fit(folder: Path, published: Manifest | None = None) -> HoldoutFit | None:
    """The version's fit without its hold-out, None if it had no hold-out; raises DamagedVersion."""
    manifest = verify(folder, published)
    model = _load_model(folder, manifest, "holdout_fit")
    return HoldoutFit(model, **_map(folder, ("item_row_of_key.npy", "user_row_of_key.npy"))) if model else None


def load_starts(folder: Path, published: Manifest | None = None) -> tuple[FactorModel, FactorModel] | None:
    """`published_start` and `holdout_start` of VersionContents, None if it has none; raises DamagedVersion."""
    manifest = verify(folder, published)
    published_start = _load_model(folder, manifest, "published_start")
    holdout_start = _load_model(folder, manifest, "holdout_start")
    return (published_start, holdout_start) if published_start and holdout_start else None


def _load_model(folder: Path, manifest: Manifest, prefix: str) -> FactorModel | None:
    arrays = _map(folder, (file for file in manifest["files"] if file.startswith(prefix)))
    if not arrays:
        return None
    try:
        arrays = {name.removeprefix(f"{prefix}_"): array for name, array in arrays.items()}
        return FactorModel.from_arrays(arrays, Loss.from_dict(manifest["loss"]))
    except InvalidArray as invalid:
        raise DamagedVersion(folder, f"{prefix}_{invalid.name}.npy", invalid.reason) from invalid


def folders(versions_dir: Path) -> list[Path]:
    """All version folders on disk: published, half-written, and complete without a row."""
    return [path for path in versions_dir.iterdir() if path.is_dir()] if versions_dir.is_dir() else []


def remove(folder: Path) -> None:
    """Remove a version folder that has no row; processes that have mapped it keep their maps."""
    shutil.rmtree(folder, ignore_errors=True)


def _write_array(path: Path, array: npt.NDArray[Any]) -> dict[str, Any]:
    np.save(path, np.require(array, requirements="C"), allow_pickle=False)
    return {"sha256": _sha256(path), "bytes": path.stat().st_size}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(folder: Path) -> Manifest:
    with _reading(folder, MANIFEST, "cannot be parsed"):
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        actual = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise DamagedVersion(folder, MANIFEST, f"has format {actual!r}; this service reads format {FORMAT}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(
        "/" not in file and isinstance(entry, dict) and entry.keys() >= {"sha256", "bytes"}
        for file, entry in files.items()
    ):
        raise DamagedVersion(folder, MANIFEST, "does not list its files")
    return manifest


def _map(folder: Path, files: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    arrays = {}
    for file in files:
        with _reading(folder, file, "is not an array"):
            arrays[file.removesuffix(".npy")] = mapped(folder / file)
    return arrays


@contextmanager
def _reading(folder: Path, file: str, if_invalid: str = "cannot be read") -> Iterator[None]:
    """Raises DamagedVersion for errors of the file system, and for a ValueError, whose reason is `if_invalid`."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedVersion(folder, file, "is missing") from error
    except OSError as error:
        raise DamagedVersion(folder, file, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DamagedVersion(folder, file, if_invalid) from error
