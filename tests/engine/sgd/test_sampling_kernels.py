import numpy as np

from app.engine.sgd.sampling_kernels import copy_taken, count_taken


def test_the_ratings_counted_are_the_ones_copied_in_their_order():
    n = 1000
    ratings = (
        np.arange(n, dtype=np.int32),
        np.arange(n, dtype=np.int32)[::-1].copy(),
        np.linspace(0, 1, n).astype(np.float32),
    )
    is_always_taken = np.arange(n) % 10 == 0
    sample = np.uint64(5), np.uint64(0.3 * 2.0**64), is_always_taken
    counts = np.zeros(2, np.int64)
    for part, (start, end) in enumerate([(0, 400), (400, n)]):
        count_taken(start, end, part, sample, counts)
    taken = np.empty(counts.sum(), np.int32), np.empty(counts.sum(), np.int32), np.empty(counts.sum(), np.float32)
    offsets = np.array([0, counts[0]])
    for part, (start, end) in enumerate([(0, 400), (400, n)]):
        copy_taken(start, end, part, sample, offsets, ratings, taken)
    assert (np.diff(taken[0]) > 0).all()
    assert set(np.flatnonzero(is_always_taken)) <= set(taken[0].tolist())
    assert all(np.array_equal(column, whole[taken[0]]) for column, whole in zip(taken, ratings, strict=True))
    assert 0.3 < counts.sum() / n < 0.45  # 0.1 + 0.9 * 0.3
