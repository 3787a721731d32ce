import numpy as np
import pytest

from app.engine.data.ratings import Vocabulary
from app.training.snapshot.merge import _order, is_among, with_ids


def test_ids_are_added_and_removed_in_sorted_order() -> None:
    old = Vocabulary.of(["ant", "cat", "é"])
    stays = np.array([True, False, True])
    keys, ids, row_of_old = with_ids(np.array([7, 8, 9]), old, stays, {3: "bee", 4: "zoo", 5: "aardvark", 6: "ü"})
    assert ids.ids_of(np.arange(6, dtype=np.int32)) == ["aardvark", "ant", "bee", "zoo", "é", "ü"]
    assert keys.tolist() == [5, 7, 3, 4, 9, 6]
    assert row_of_old.tolist() == [1, -1, 4]


def test_ids_can_be_added_to_none_and_all_be_removed() -> None:
    keys, ids, rows = with_ids(np.zeros(0, np.int64), Vocabulary.of([]), np.zeros(0, np.bool_), {2: "b", 1: "a"})
    assert (keys.tolist(), len(ids), rows.size) == ([1, 2], 2, 0)
    keys, ids, rows = with_ids(keys, ids, np.zeros(2, np.bool_), {})
    assert (keys.tolist(), len(ids), rows.tolist()) == ([], 0, [-1, -1])


def test_is_among_finds_members_of_a_sorted_array() -> None:
    assert is_among(np.array([5, 1, 9]), np.array([1, 4, 5])).tolist() == [True, True, False]
    assert is_among(np.array([5]), np.zeros(0, np.int64)).tolist() == [False]


@pytest.mark.parametrize("largest", [50, 2**31 - 1])
def test_changes_are_in_order_of_user_and_item_and_the_last_of_a_pair_comes_last(largest: int) -> None:
    rng = np.random.default_rng(0)
    users, items = (np.append(rng.integers(0, 50, 500), largest).astype(np.int32) for _ in range(2))
    assert _order(users, items).tolist() == np.lexsort((items, users)).tolist()
    assert _order(users[:0], items[:0]).size == 0
