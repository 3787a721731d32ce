"""The data sets of the training benchmarks, as arrays in memory and as files for peers in other processes.

    .venv/bin/python -m benchmarks.datasets S1 S20

S1 and S20 are synthetic (see `benchmarks.synthetic`), ml is MovieLens latest-small. Test sets are for
reporting only. Settings, of Palate or a peer, are chosen by training on `tune` and evaluating on `holdout`: both are
parts of `train`. Files go to benchmarks/results/data.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
import zlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.synthetic import SHAPES, Rows, Vector32, generate

DATA_FOLDER = Path(__file__).parent / "results" / "data"
NAMES = ("ml", *SHAPES)
TEST_SHARE = HOLDOUT_SHARE = 0.1
ML_FOLDS, ML_TEST_FOLD = 5, 0


@dataclass(frozen=True, slots=True)
class Part:
    """Ratings sorted by user, then item; no pair twice."""

    users: Rows
    items: Rows
    values: Vector32

    def __len__(self) -> int:
        return int(self.values.size)

    def where(self, mask: npt.NDArray[np.bool_]) -> Part:
        return Part(self.users[mask], self.items[mask], self.values[mask])


@dataclass(frozen=True, slots=True)
class DataSet:
    """Training and test ratings, and the folder where other processes find them."""

    name: str
    folder: Path
    n_users: int
    n_items: int
    train: Part
    test: Part
    tune: Part
    holdout: Part


def data_set(name: str, folder: Path = DATA_FOLDER) -> DataSet:
    """The data set of this name, generated unless its files exist."""
    home = folder / name
    if not (home / "shape.txt").exists():
        if name in SHAPES:
            _write_synthetic(name, home)
        else:
            _write_movielens(home)
    n_users, n_items = map(int, (home / "shape.txt").read_text().split())
    return DataSet(name, home, n_users, n_items, *(load(home, part) for part in ("train", "test", "tune", "holdout")))


def movielens_folder() -> Path:
    """Where MovieLens latest-small lies: below PALATE_TEST_DATA, or beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("PALATE_TEST_DATA", beside)) / "ml-latest-small"


def random_mask(n: int, share: float, seed: list[int]) -> npt.NDArray[np.bool_]:
    """True at a random share of n places, to the nearest whole number."""
    mask = np.zeros(n, np.bool_)
    mask[np.random.default_rng(seed).choice(n, round(share * n), replace=False)] = True
    return mask


def write(home: Path, n_users: int, n_items: int, all_ratings: Part, is_test: npt.NDArray[np.bool_]) -> None:
    """Write one .npy file per part and column; shape.txt is last and marks the data as complete."""
    home.mkdir(parents=True, exist_ok=True)
    train = all_ratings.where(~is_test)
    is_holdout = random_mask(len(train), HOLDOUT_SHARE, [len(train), 2])
    _save(home, "all", all_ratings)
    _save(home, "train", train)
    _save(home, "test", all_ratings.where(is_test))
    _save(home, "tune", train.where(~is_holdout))
    _save(home, "holdout", train.where(is_holdout))
    (home / "shape.txt").write_text(f"{n_users} {n_items}\n")


def load(home: Path, part: str) -> Part:
    """One part: all, train, test, tune or holdout."""
    return Part(*(np.load(home / f"{part}_{column.name}.npy") for column in fields(Part)))


def _save(home: Path, name: str, part: Part) -> None:
    for column in fields(Part):
        np.save(home / f"{name}_{column.name}.npy", getattr(part, column.name))


def _write_synthetic(name: str, home: Path) -> None:
    shape = SHAPES[name]
    all_ratings = Part(*generate(shape))
    is_test = random_mask(len(all_ratings), TEST_SHARE, [shape.seed, 1])
    write(home, shape.n_users, shape.n_items, all_ratings, is_test)


def _write_movielens(home: Path) -> None:
    """Fold 0 of the project's five fixed folds is the test part."""
    rows = [row[:3] for row in csv.reader((movielens_folder() / "ratings.csv").open())][1:]
    folds = np.array([zlib.crc32(f"{user},{item}".encode()) % ML_FOLDS for user, item, _ in rows])
    user_ids, users = np.unique([int(user) for user, _, _ in rows], return_inverse=True)
    item_ids, items = np.unique([int(item) for _, item, _ in rows], return_inverse=True)
    order = np.lexsort((items, users))
    values = np.array([float(value) for _, _, value in rows], np.float32)
    all_ratings = Part(users.astype(np.int32)[order], items.astype(np.int32)[order], values[order])
    is_test = (folds == ML_TEST_FOLD)[order]
    write(home, user_ids.size, item_ids.size, all_ratings, is_test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(SHAPES), choices=NAMES)
    for name in parser.parse_args().names:
        started = time.perf_counter()
        data = data_set(name)
        print(
            f"{name}: {len(data.train):,} + {len(data.test):,} ratings, mean {data.train.values.mean():.3f}, "
            f"sd {data.train.values.std():.3f}, {time.perf_counter() - started:.1f} s"
        )
        for side, rows, n in (("user", data.train.users, data.n_users), ("item", data.train.items, data.n_items)):
            spread = np.percentile(np.bincount(rows, minlength=n), [0, 10, 50, 90, 99, 100])
            print(f"  ratings per {side}: {spread.astype(int).tolist()}")


if __name__ == "__main__":
    main()
