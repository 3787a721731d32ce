import numpy as np
import pytest

from app.engine.arrays import starts_of
from app.training.snapshot import kernels


def rows(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_keys_are_overwritten_with_rows_and_unknown_ones_counted() -> None:
    keys = rows(3, 0, 9, 1, -5)
    assert kernels.rename(keys, rows(-1, 7, -1, 4)) == 3
    assert keys.tolist() == [4, -1, -1, 7, -1]


@pytest.mark.parametrize(
    ("users", "items", "values", "flaw"),
    [
        ([0, 0, 1], [1, 2, 0], [1.0, 2.0, 3.0], -1),
        ([0, 0, 1], [1, 1, 0], [1.0, 2.0, 3.0], 1),
        ([0, 1, 0], [1, 2, 0], [1.0, 2.0, 3.0], 2),
        ([0, 0, 1], [1, 2, 0], [1.0, 2.0, np.nan], 2),
    ],
)
def test_the_first_repeated_unsorted_or_infinite_rating_is_found(
    users: list[int], items: list[int], values: list[float], flaw: int
) -> None:
    assert kernels.first_flaw(rows(*users), rows(*items), np.array(values, np.float32)) == flaw


def test_ratings_are_gathered_by_user_and_sorted_by_item() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.permutation(50 * 40)[:600]
    users, items = (pairs // 40).astype(np.int32), (pairs % 40).astype(np.int32)
    bits, starts = np.arange(600, dtype=np.uint32), starts_of(np.bincount(users, minlength=50))
    user_rows, item_rows, sorted_bits = np.empty_like(users), np.empty_like(items), np.empty_like(bits)
    kernels.gather_users(users, items, bits, starts[:-1].copy(), item_rows, sorted_bits)
    kernels.sort_within_users(starts, 0, 50, user_rows, item_rows, sorted_bits)
    order = np.lexsort((items, users))
    assert user_rows.tolist() == users[order].tolist()
    assert item_rows.tolist() == items[order].tolist()
    assert sorted_bits.tolist() == order.tolist()


def test_ratings_are_held_out_by_the_hashes_of_their_ids() -> None:
    users, items = np.repeat(np.arange(100, dtype=np.int32), 100), np.tile(np.arange(100, dtype=np.int32), 100)
    hashes, mask = np.arange(100, dtype=np.uint64), np.empty(10_000, np.bool_)
    kernels.hold_out(users, items, hashes, hashes, np.uint64(0.2 * 2.0**64), mask)
    assert mask.mean() == pytest.approx(0.2, abs=0.02)
    kernels.hold_out(users, items, hashes, hashes, np.uint64(0), mask)
    assert not mask.any()


def test_pairs_are_found_where_they_stand() -> None:
    starts, items = np.array([0, 2, 2, 5]), rows(1, 4, 0, 4, 6)
    indices = np.empty(6, np.int64)
    kernels.find_pairs(starts, items, rows(0, 2, 2, 1, 3, -1), rows(4, 0, 5, 1, 1, 1), indices)
    assert indices.tolist() == [1, 2, -1, -1, -1, -1]


def test_changes_replace_add_and_delete_ratings() -> None:
    starts, items, values = np.array([0, 2, 3]), rows(0, 2, 1), np.array([1, 2, 3], np.float32)
    changes = np.array([0, 3, 3]), rows(0, 1, 2), np.array([np.inf, 5, 4], np.float32)  # all of user 0
    new_starts = np.array([0, 2, 3])
    merged = np.empty(3, np.int32), np.empty(3, np.int32), np.empty(3, np.float32)
    names = rows(0, 1), rows(0, 1, 2), rows(1, 3, 5)
    assert kernels.merge(starts, items, values, *changes, *names, new_starts, 0, 2, *merged) == 0
    assert [array.tolist() for array in merged] == [[0, 0, 1], [1, 2, 1], [5.0, 4.0, 3.0]]
    assert kernels.merge(starts, items, values, *changes, *names, np.array([0, 1, 2]), 0, 2, *merged) == 1
