from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from app.engine.blocks import deal, lay_out, n_groups_for
from tests.engine.worlds import planted


@pytest.fixture(scope="module")
def world():
    return planted().ratings


def laid_out(ratings, n_threads):
    with ThreadPoolExecutor(n_threads) as pool:
        return lay_out(ratings, 16, pool, n_threads)


def test_every_rating_is_in_the_grid_once(world):
    grid = laid_out(world, 1)
    users, items = grid.users.row_at[grid.user_places], grid.items.row_at[grid.item_places]
    order = np.lexsort((items, users))
    assert np.array_equal(users[order], world.user_rows)
    assert np.array_equal(items[order], world.item_rows)
    assert np.array_equal(grid.values[order], world.values)


def test_each_block_holds_its_own_groups_only(world):
    grid = laid_out(world, 1)
    for block, (start, end) in enumerate(zip(grid.block_starts, grid.block_starts[1:], strict=False)):
        users, items = grid.user_places[start:end], grid.item_places[start:end]
        group, other = divmod(block, grid.n_groups)
        assert ((grid.users.starts[group] <= users) & (users < grid.users.starts[group + 1])).all()
        assert ((grid.items.starts[other] <= items) & (items < grid.items.starts[other + 1])).all()


def test_the_blocks_of_a_stratum_share_no_user_and_no_item_and_the_strata_cover_the_grid(world):
    grid = laid_out(world, 1)
    strata = [grid.stratum(number) for number in range(grid.n_groups)]
    for blocks in strata:
        assert sorted(blocks // grid.n_groups) == list(range(grid.n_groups))
        assert sorted(blocks % grid.n_groups) == list(range(grid.n_groups))
    assert sorted(np.concatenate(strata)) == list(range(grid.n_groups**2))


@pytest.mark.parametrize("n_threads", [2, 3])
def test_the_grid_is_the_same_for_every_number_of_threads(world, n_threads):
    one, several = laid_out(world, 1), laid_out(world, n_threads)
    for name in ("user_places", "item_places", "values", "block_starts"):
        assert np.array_equal(getattr(one, name), getattr(several, name))


def test_neighbours_in_a_block_are_different_users():
    grid = laid_out(planted(n_ratings=50_000).ratings, 1)
    start, end = grid.block_starts[:2]
    streams = grid.user_places[start : start + (end - start) // 8 * 8].reshape(-1, 8)
    assert (np.diff(streams, axis=0) >= 0).all()  # each stream runs through its users in order
    assert np.mean(streams[:, 0] == streams[:, 1]) < 0.05


def test_groups_are_dealt_evenly():
    counts = (100_000 / np.arange(50, 1050)).astype(np.int32)
    dealt = deal(counts, 8)
    sizes = np.diff(dealt.starts)
    loads = np.bincount(dealt.group_of, weights=counts)
    assert sizes.max() - sizes.min() <= 1
    assert loads.max() <= 1.05 * loads.min()
    assert np.array_equal(dealt.place_of[dealt.row_at], np.arange(1000))


@pytest.mark.parametrize(
    ("n_ratings", "n_items", "expected"),
    [(10, 5, 8), (100_000, 10_000, 8), (20_000_000, 27_000, 14), (1_000_000, 10_000_000, 15)],
    ids=["tiny", "small", "cache decides", "block size decides"],
)
def test_the_number_of_groups_follows_from_the_data(n_ratings, n_items, expected):
    assert n_groups_for(n_ratings, n_items, 64) == expected
