"""The benchmarks' data: what is measured must be what is claimed."""

import numpy as np
import pytest

from benchmarks import datasets
from benchmarks.datasets import Part, data_set, random_mask
from benchmarks.synthetic import Shape, generate

SMALL = Shape(n_users=300, n_items=200, n_ratings=8_000, seed=7)


def test_one_shape_gives_the_same_ratings_every_time():
    for first, second in zip(generate(SMALL), generate(SMALL), strict=True):
        np.testing.assert_array_equal(first, second)


def test_another_seed_gives_other_ratings():
    other = Shape(**{**{name: getattr(SMALL, name) for name in Shape.__slots__}, "seed": 8})
    assert not np.array_equal(generate(SMALL)[1], generate(other)[1])


def test_ratings_are_sorted_pairs_without_repeats_in_the_asked_number():
    users, items, _ = generate(SMALL)
    pairs = users.astype(np.int64) * SMALL.n_items + items
    assert pairs.size == SMALL.n_ratings
    assert (np.diff(pairs) > 0).all()


def test_values_are_half_stars_within_the_scale():
    values = generate(SMALL)[2]
    assert set(np.unique(values * 2)) <= set(range(1, 11))


def test_the_planted_taste_can_be_found_again():
    """Items differ in their means by more than noise of that many ratings could make them."""
    _, items, values = generate(SMALL)
    counts = np.bincount(items, minlength=SMALL.n_items)
    means = np.bincount(items, values, SMALL.n_items)[counts > 20] / counts[counts > 20]
    noise_of_means = np.sqrt(values.var() / counts[counts > 20]).mean()
    assert means.std() > 1.5 * noise_of_means


def test_a_few_items_have_most_ratings():
    counts = np.sort(np.bincount(generate(SMALL)[1], minlength=SMALL.n_items))[::-1]
    assert counts[: SMALL.n_items // 10].sum() > 0.25 * SMALL.n_ratings


def test_parts_are_disjoint_and_together_everything(tmp_path, monkeypatch):
    monkeypatch.setitem(datasets.SHAPES, "small", SMALL)
    data = data_set("small", tmp_path)
    assert len(data.test) == SMALL.n_ratings // 10
    assert pairs_of(data.train) | pairs_of(data.test) == pairs_of(Part(*generate(SMALL)))
    assert pairs_of(data.tune) | pairs_of(data.holdout) == pairs_of(data.train)
    assert not pairs_of(data.tune) & pairs_of(data.holdout)


def test_a_broken_off_writing_is_done_again(tmp_path, monkeypatch):
    monkeypatch.setitem(datasets.SHAPES, "small", SMALL)
    whole = data_set("small", tmp_path)
    (tmp_path / "small" / "shape.txt").unlink()
    (tmp_path / "small" / "train_users.npy").write_bytes(b"half")
    np.testing.assert_array_equal(data_set("small", tmp_path).train.users, whole.train.users)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_a_random_mask_has_the_asked_share(share):
    assert random_mask(1_000, share, [1]).sum() == 1_000 * share


def pairs_of(part: Part) -> set[tuple[int, int]]:
    return set(zip(part.users.tolist(), part.items.tolist(), strict=True))
