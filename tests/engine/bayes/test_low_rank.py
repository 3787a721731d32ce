import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from app.engine.bayes.low_rank import truncate
from app.engine.linalg import cut


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_truncation_is_the_best_one_of_that_rank(rank):
    rng = np.random.default_rng(0)
    left = (rng.normal(size=(300, 6)) * [9, 5, 3, 1, 0.5, 0.1]).astype(np.float32)
    right = rng.normal(size=(200, 6)).astype(np.float32)
    parts = [cut(np.ones(n, np.int32), 1) for n in (300, 200)]
    with ThreadPoolExecutor(2) as pool:
        found = truncate(pool, left, right, rank, *parts)
    u, s, vt = np.linalg.svd(left.astype(np.float64) @ right.T, full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ vt[:rank]
    assert found.left.shape == (300, rank)
    np.testing.assert_allclose(found.left @ found.right.T, best, atol=1e-3)
    np.testing.assert_allclose(found.spectrum[:6], s[:6], rtol=1e-4)


def test_a_product_of_lower_rank_than_asked_for_is_kept_whole():
    column = np.arange(1, 50, dtype=np.float32)[:, None]
    twice = np.hstack([column, column, 0 * column])
    parts = cut(np.ones(49, np.int32), 1)
    with ThreadPoolExecutor(1) as pool:
        found = truncate(pool, twice, twice, 3, parts, parts)
    np.testing.assert_allclose(found.left @ found.right.T, twice @ twice.T, rtol=1e-4)
    assert np.isfinite(found.left).all()


def test_parts_cover_every_row_once_and_share_the_work():
    counts = np.random.default_rng(0).pareto(1.0, 20_000).astype(np.int32)
    parts = cut(counts, 100)
    assert parts[0][0] == 0
    assert parts[-1][1] == 20_000
    assert all(before[1] == after[0] for before, after in itertools.pairwise(parts))
    work = [int((counts[first:last] + 100).sum()) for first, last in parts]
    assert len(parts) > 8
    assert max(work) < 1.5 * sum(work) / len(work) + counts.max()
