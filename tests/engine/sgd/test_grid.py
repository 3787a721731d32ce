from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from app.engine.data.ratings import Ratings
from app.engine.sgd.grid import build_grid, n_groups_for, partition
from tests.engine.worlds import planted


@pytest.fixture(scope="module")
def world():
    return planted().ratings


def grid_of(ratings, n_threads):
    with ThreadPoolExecutor(n_threads) as pool:
        return build_grid(ratings, 16, pool, n_threads)


def block_of(grid, number, n_streams):
    """User and item places of a block's ratings, bundle after bundle."""
    at, bundle, n_full, n_alone = grid.table[number].tolist()
    users, items = [], []
    for current in range(bundle, bundle + n_full + n_alone):
        width = n_streams if current < bundle + n_full else 1
        n = int(grid.bundle_lengths[current]) * width
        users.append(np.resize(grid.bundle_users[current, :width], n))
        items.append(grid.item_positions[at : at + n])
        at += n
    none = np.empty(0, np.int32)
    return np.concatenate([none, *users]), np.concatenate([none, *items])


def blocks_of(grid):
    """(group of users, group of items, user places, item places) of every block, in the order of the ratings."""
    for number in range(grid.n_groups**2):
        yield *divmod(number, grid.n_groups), *block_of(grid, number, grid.bundle_users.shape[1])


@pytest.mark.parametrize("n_columns", [16, 64, 144], ids=["four users a bundle", "two", "one"])
def test_every_rating_is_in_the_grid_once(world, n_columns):
    with ThreadPoolExecutor(1) as pool:
        grid = build_grid(world, n_columns, pool, 1)
    _, _, users, items = zip(*blocks_of(grid), strict=True)
    user_rows, item_rows = grid.users.row_at[np.concatenate(users)], grid.items.row_at[np.concatenate(items)]
    order = np.lexsort((item_rows, user_rows))
    assert np.array_equal(user_rows[order], world.user_rows)
    assert np.array_equal(item_rows[order], world.item_rows)
    assert np.array_equal(grid.values[: len(world)][order], world.values)


def test_each_block_holds_its_own_groups_only(world):
    grid = grid_of(world, 1)
    for group, other, users, items in blocks_of(grid):
        assert ((grid.users.starts[group] <= users) & (users < grid.users.starts[group + 1])).all()
        assert ((grid.items.starts[other] <= items) & (items < grid.items.starts[other + 1])).all()


def test_the_blocks_of_a_stratum_share_no_user_and_no_item_and_the_strata_cover_the_grid(world):
    grid = grid_of(world, 1)
    strata = [grid.stratum(number) for number in range(grid.n_groups)]
    for blocks in strata:
        assert sorted(blocks // grid.n_groups) == list(range(grid.n_groups))
        assert sorted(blocks % grid.n_groups) == list(range(grid.n_groups))
    assert sorted(np.concatenate(strata)) == list(range(grid.n_groups**2))


@pytest.mark.parametrize("n_threads", [2, 3])
def test_the_grid_is_the_same_for_every_number_of_threads(world, n_threads):
    one, several = grid_of(world, 1), grid_of(world, n_threads)
    for name in ("item_positions", "values", "table"):
        assert np.array_equal(getattr(one, name), getattr(several, name))
    used = np.concatenate([np.arange(first, first + full + alone) for _, first, full, alone in one.table])
    for name in ("bundle_users", "bundle_lengths", "bundle_continues"):
        full = getattr(one, name)[used], getattr(several, name)[used]
        assert np.array_equal(
            full[0] if full[0].ndim == 1 else full[0][:, 0], full[1] if full[1].ndim == 1 else full[1][:, 0]
        )


def test_the_users_of_a_bundle_are_different_and_a_user_in_two_bundles_running_is_marked():
    grid = grid_of(planted(n_ratings=50_000).ratings, 1)
    for _, first, n_full, _ in grid.table.tolist():
        users = grid.bundle_users[first : first + n_full]
        assert all(len(set(row)) == len(row) for row in users.tolist())
        shared = [
            bool(set(now) & set(before)) for before, now in zip(users[:-1].tolist(), users[1:].tolist(), strict=True)
        ]
        assert grid.bundle_continues[first + 1 : first + n_full].tolist() == shared


def test_a_user_with_most_of_the_ratings_is_in_many_bundles():
    users = np.repeat(np.arange(9, dtype=np.int32), [200, 3, 3, 3, 3, 3, 3, 3, 3])
    items = np.concatenate([np.arange(200), np.tile(np.arange(3), 8)]).astype(np.int32)
    ratings = Ratings(users, items, np.ones(users.size, np.float32), 9, 200)
    grid = grid_of(ratings, 1)
    _, _, places, _ = zip(*blocks_of(grid), strict=True)
    assert np.bincount(grid.users.row_at[np.concatenate(places)]).tolist() == [200, 3, 3, 3, 3, 3, 3, 3, 3]


def test_bundles_are_long_where_users_have_many_ratings():
    grid = grid_of(planted(n_ratings=50_000).ratings, 1)
    in_full = sum(int(grid.bundle_lengths[f : f + n].sum()) * 4 for _, f, n, _ in grid.table.tolist())
    assert in_full > 0.97 * 50_000
    counts = np.bincount(planted(n_ratings=50_000).ratings.user_rows)
    mean_length = in_full / 4 / grid.table[:, 2].sum()
    assert mean_length > 0.6 * counts.mean() / grid.n_groups


def test_groups_are_dealt_evenly():
    counts = (100_000 / np.arange(50, 1050)).astype(np.int32)
    dealt = partition(counts, 8)
    sizes = np.diff(dealt.starts)
    loads = np.bincount(dealt.group_of, weights=counts)
    assert sizes.max() - sizes.min() <= 1
    assert loads.max() <= 1.05 * loads.min()
    assert np.array_equal(dealt.position_of[dealt.row_at], np.arange(1000))


@pytest.mark.parametrize(
    ("n_ratings", "n_items", "n_columns", "expected"),
    [
        pytest.param(10, 5, 64, 8, id="tiny"),
        pytest.param(100_000, 10_000, 64, 8, id="small"),
        pytest.param(20_000_000, 27_000, 64, 6, id="many"),
        pytest.param(20_000_000, 27_000, 128, 4, id="many of long rows"),
        pytest.param(20_000_000, 270_000, 64, 17, id="cache decides"),
        pytest.param(1_000_000, 10_000_000, 64, 15, id="block size decides"),
    ],
)
def test_the_number_of_groups_follows_from_the_data(n_ratings, n_items, n_columns, expected):
    assert n_groups_for(n_ratings, n_items, n_columns) == expected
