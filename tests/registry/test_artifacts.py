import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.engine.data.id_search import look_up
from app.engine.retrieval.index import TopNIndex
from app.engine.retrieval.retriever import Query
from app.errors import status_of
from app.registry import artifacts
from app.registry.artifacts import DamagedVersion
from tests.registry.world import ITEM_KEYS, ITEMS, USER_KEYS, contents, facts, model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    artifacts.write(tmp_path, "one", contents(mean=3.5), facts())
    return tmp_path / "one"


def test_what_was_written_is_loaded(folder: Path) -> None:
    loaded = artifacts.load(folder, version=4)
    assert loaded.version == 4
    assert loaded.trained_through == 7
    assert loaded.model.digest() == model(3.5).digest() == loaded.manifest["model_digest"]
    assert loaded.item_ids.ids_of(np.arange(3, dtype=np.int32)) == list(ITEMS)
    assert loaded.manifest["n_items"] == 3


def test_a_loaded_version_is_a_read_only_map_of_its_files(folder: Path) -> None:
    factors = artifacts.load(folder, 1).model.item_factors
    assert isinstance(factors.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        factors[0, 0] = 1.0


def test_keys_find_their_rows_and_unknown_keys_find_none(folder: Path) -> None:
    loaded = artifacts.load(folder, 1)
    assert look_up(loaded.item_row_of_key, np.array([8, 11, 5, 6, 0, 12, 999_999])).tolist() == [
        2,
        0,
        1,
        -1,
        -1,
        -1,
        -1,
    ]
    assert look_up(loaded.item_row_of_key, ITEM_KEYS.astype(np.int32)).tolist() == [0, 1, 2]
    assert look_up(loaded.user_row_of_key, np.array([4, 2, 3, 0, 5, -1])).tolist() == [0, 1, -1, -1, -1, -1]


def test_a_version_without_items_and_users_can_be_loaded(tmp_path: Path) -> None:
    empty = artifacts.VersionContents(
        model(n_users=0, n_items=0), np.zeros(0, np.int64), np.zeros(0, np.int64), artifacts.Vocabulary.of([])
    )
    artifacts.write(tmp_path, "empty", empty, facts())
    loaded = artifacts.load(tmp_path / "empty", 1)
    assert look_up(loaded.item_row_of_key, np.array([1])).tolist() == [-1]
    assert look_up(loaded.user_row_of_key, np.array([1])).tolist() == [-1]


def test_a_loaded_version_outlives_its_folder(folder: Path) -> None:
    loaded = artifacts.load(folder, 1)
    artifacts.remove(folder)
    assert not folder.exists()
    assert loaded.model.digest() == model(3.5).digest()


def test_the_manifest_that_write_returns_is_the_one_in_the_folder(tmp_path: Path) -> None:
    written = artifacts.write(tmp_path, "one", contents(), facts(metrics={"pair": (1, 2)}))
    assert written == json.loads((tmp_path / "one" / "manifest.json").read_text())


def test_the_same_name_is_never_written_twice(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(OSError, match="not empty"):
        artifacts.write(folder.parent, "one", contents(mean=1.0), facts())
    assert (folder / "manifest.json").read_bytes() == before


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):  # NaN is no JSON
        artifacts.write(tmp_path, "one", contents(), facts(metrics={"holdout_rmse": float("nan")}))
    assert list(tmp_path.iterdir()) == []


def _flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _edit_manifest(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "item_factors.npy").unlink(), "item_factors.npy is missing"),
        (lambda f: (f / "user_keys.npy").write_bytes(b""), "user_keys.npy has 0 bytes instead of"),
        (lambda f: _flip_a_byte(f / "item_bias.npy"), "item_bias.npy has a wrong checksum"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda f: (f / "manifest.json").write_bytes(b"{"), "manifest.json cannot be parsed"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff"), "manifest.json cannot be parsed"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json has format 'list'"),
        (_edit_manifest(lambda m: m.update(format=2)), "manifest.json has format 2; this service reads format 1"),
        (_edit_manifest(lambda m: m.update(files=3)), "manifest.json does not list its files"),
        (_edit_manifest(lambda m: m["files"].pop("mean.npy")), "mean.npy is missing from the model"),
        (_edit_manifest(lambda m: m["files"].pop("item_keys.npy")), "manifest.json lacks 'item_keys'"),
        (lambda f: artifacts.remove(f), "manifest.json is missing"),
    ],
)
def test_a_damaged_folder_is_refused_and_the_error_says_what_is_wrong(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    with pytest.raises(DamagedVersion, match=r"model version folder one: ") as refused:
        artifacts.load(folder, 1)
    assert message in str(refused.value)
    assert status_of(refused.value) == 409


def test_a_manifest_that_differs_from_the_published_one_is_damage(folder: Path) -> None:
    published = artifacts.verify(folder)
    _edit_manifest(lambda m: m.update(trained_through=8))(folder)
    with pytest.raises(DamagedVersion, match="is not the one that was published"):
        artifacts.load(folder, 1, published)


def test_the_fit_without_the_holdout_is_stored_apart_from_the_served_model(tmp_path: Path) -> None:
    artifacts.write(tmp_path, "one", contents(mean=3.0, holdout_fit=model(mean=2.0, n_users=0)), facts())
    holdout_fit = artifacts.load_holdout_fit(tmp_path / "one")
    assert holdout_fit is not None
    assert holdout_fit.model.mean == 2.0
    assert artifacts.load(tmp_path / "one", 1).model.mean == 3.0


def test_a_version_without_holdout_has_no_such_fit(folder: Path) -> None:
    assert artifacts.load_holdout_fit(folder) is None


def test_the_index_of_a_large_version_is_stored_and_mapped(tmp_path: Path) -> None:
    n = 600
    large = artifacts.VersionContents(
        model(n_items=n, k=4), USER_KEYS, np.arange(n), artifacts.Vocabulary.of([f"i{row:03}" for row in range(n)])
    )
    artifacts.write(tmp_path, "large", large, facts())
    loaded = artifacts.load(tmp_path / "large", 1)
    assert isinstance(loaded.retriever, TopNIndex)
    assert isinstance(loaded.retriever.arrays()["lead"].base, np.memmap)
    query = Query(np.ones(4, np.float32), 3.0)
    [(rows, _)] = loaded.retriever.search([query], 5)
    assert rows.tolist() == [599, 598, 597, 596, 595]
