import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.arrays import InvalidArray
from app.engine.data.ratings import Ratings, Vocabulary

IDS = ["b", "a", "é", "日本", "𝄞", "z" * 128, "A", "0"]


def test_ratings_are_the_same_in_whatever_order_they_come():
    rng = np.random.default_rng(0)
    users, items = np.divmod(rng.permutation(500)[:200], 25)
    values = rng.integers(1, 6, 200)
    first = Ratings.of(users, items, values, n_users=20, n_items=25)
    order = rng.permutation(200)
    second = Ratings.of(users[order], items[order], values[order], n_users=20, n_items=25)
    expected = np.lexsort((items, users))
    for ratings in (first, second):
        assert ratings.user_rows.tolist() == users[expected].tolist()
        assert ratings.item_rows.tolist() == items[expected].tolist()
        assert ratings.values.tolist() == values[expected].tolist()


@pytest.mark.parametrize("users", [[0, 1, 0], [0, 0, 1]], ids=["unsorted", "sorted"])
def test_a_pair_that_comes_twice_is_refused(users):
    with pytest.raises(InvalidArray, match="user row 0 with item row 2 more than once"):
        Ratings.of(users, [2, 2, 2], [1, 2, 3], n_users=2, n_items=3)


def test_a_row_out_of_range_is_named_with_its_position():
    with pytest.raises(InvalidArray, match="item_rows holds row 3 at position 1; there are 3 rows"):
        Ratings.of([0, 1], [0, 3], [1, 2], n_users=2, n_items=3)


def test_unequal_lengths_are_refused():
    with pytest.raises(InvalidArray, match="equal lengths"):
        Ratings.of([0, 1], [0], [1, 2], n_users=2, n_items=3)


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(InvalidArray, match="values holds inf"):
        Ratings.of([0], [0], [np.inf], n_users=1, n_items=1)


def test_there_may_be_no_ratings_at_all():
    assert len(Ratings.of([], [], [], n_users=0, n_items=0)) == 0


def test_taking_by_mask_and_by_positions_keeps_the_order():
    ratings = Ratings.of([0, 0, 1, 2], [0, 1, 0, 2], [1, 2, 3, 4], n_users=3, n_items=3)
    assert ratings.take(np.array([True, False, False, True])).values.tolist() == [1, 4]
    assert ratings.take(np.array([3, 0])).values.tolist() == [1, 4]


def test_a_users_ratings_lie_together():
    ratings = Ratings.of([2, 0, 2], [1, 0, 0], [1, 2, 3], n_users=4, n_items=2)
    assert ratings.values[ratings.of_user(2)].tolist() == [3, 1]
    assert ratings.values[ratings.of_user(1)].size == 0
    assert ratings.values[ratings.of_user(3)].size == 0


def test_rows_follow_the_ids_in_code_point_order():
    vocabulary = Vocabulary.of(IDS)
    assert vocabulary.ids_of(np.arange(len(IDS), dtype=np.int32)) == sorted(IDS)


def test_every_id_finds_its_row_and_strangers_none():
    vocabulary = Vocabulary.of(IDS + IDS)
    assert len(vocabulary) == len(IDS)
    assert vocabulary.ids_of(vocabulary.rows_of(IDS)) == IDS
    assert vocabulary.rows_of(["", "aa", "日", "zz", "\ud800"]).tolist() == [-1] * 5
    assert vocabulary.row_of("nobody") is None


def test_an_empty_vocabulary_knows_nobody():
    vocabulary = Vocabulary.of([])
    assert len(vocabulary) == 0
    assert vocabulary.row_of("a") is None
    assert vocabulary.rows_of([]).size == 0


def test_a_row_that_is_not_there_is_refused():
    with pytest.raises(InvalidArray, match="row 1 is not in a vocabulary of 1"):
        Vocabulary.of(["a"]).id_of(1)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=30))
def test_any_ids_come_back_from_their_arrays(ids):
    vocabulary = Vocabulary.from_arrays(*Vocabulary.of(ids).to_arrays())
    assert vocabulary.ids_of(vocabulary.rows_of(ids)) == ids
    assert [vocabulary.row_of(one) for one in sorted(set(ids))] == list(range(len(vocabulary)))


def test_a_vocabulary_works_on_read_only_maps(tmp_path):
    for name, array in zip(("text", "offsets"), Vocabulary.of(IDS).to_arrays(), strict=True):
        np.save(tmp_path / name, array)
    mapped = Vocabulary.from_arrays(
        np.load(tmp_path / "text.npy", mmap_mode="r"), np.load(tmp_path / "offsets.npy", mmap_mode="r")
    )
    assert mapped.ids_of(mapped.rows_of(IDS)) == IDS
    assert mapped.row_of("é") == sorted(IDS).index("é")


def test_arrays_that_do_not_belong_together_are_refused():
    text, offsets = Vocabulary.of(IDS).to_arrays()
    with pytest.raises(InvalidArray, match="vocabulary offsets"):
        Vocabulary.from_arrays(text[:-1], offsets)
    with pytest.raises(InvalidArray, match="vocabulary text"):
        Vocabulary.from_arrays(text.astype(np.int8), offsets)
