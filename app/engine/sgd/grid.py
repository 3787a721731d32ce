"""The grid: ratings partitioned so that threads never meet and rows stay in the core's own cache.

Users and items are divided into n_groups groups each, which cuts the ratings into n_groups^2 blocks. Stratum s is the
blocks (g, (g + s) mod n_groups): no two of them share a user or an item, so they may be learned in any order or at once
with the same result (distributed stratified SGD: Gemulla et al. 2011). A group of items fits the core's cache. Inside a
block the ratings are bundled: users with equally many of them side by side, one rating of each in turn, so that their
vectors stay in registers and steps of different users do not wait for each other. The shape depends on the data alone.
"""

from __future__ import annotations

import functools
import math
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from app.engine.arrays import Counts, Mask, Offsets, Rows, Vector32, starts_of
from app.engine.data.ratings import Ratings
from app.engine.data.statistics import RatingStatistics, rating_statistics
from app.engine.parallel import ROWS_OF_A_PART, in_parts, run_all
from app.engine.sgd.kernel_template import RATINGS_OF_A_STEP, n_streams_for

_ITEM_GROUP_BYTES = 4096 * 1024
"""Four times a common second-level cache: what does not stay there is prefetched, and bundles are long."""
_MIN_GROUPS = 8
"""Also the most threads that can work at once."""
_MIN_GROUPS_OF_MANY = 6
_MANY_RATINGS = 5_000_000
"""From here on users' vectors are read from main memory, once for every group: fewer groups are 5 % faster."""
_LONG_ROW = 96
_MIN_GROUPS_OF_LONG_ROWS = 4
"""Few users of long rows fit in registers, so bundles hold few ratings: again fewer groups are 7 % faster."""
_MIN_BLOCK_RATINGS = 4096
"""Blocks of fewer ratings than this cost more in hand-over than they gain in cache."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Users or items divided into groups: positions are in the order of groups, each group contiguous."""

    position_of: Rows
    """[n]: position of each row."""
    row_at: Rows
    """[n]: row at each position; the inverse of position_of."""
    group_of: Rows
    """[n]: group of each row."""
    starts: Offsets
    """[n_groups + 1]: first position of each group."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Ratings in blocks, their rows replaced by positions; block (g, h) is number g * n_groups + h.

    A bundle is some users, as many as the bundles are wide, and equally many ratings of each: the first of every user,
    then the second of every user, and so on. The rest of a block, of fewer users than that, is bundles of one user.
    """

    n_groups: int
    users: Partition
    items: Partition
    bundle_users: Rows
    """[n_bundles, n_streams]: user positions; of a bundle of one user only the first, -1 in the others."""
    bundle_lengths: Rows
    """[n_bundles]: ratings of each user."""
    bundle_continues: Mask
    """[n_bundles]: whether it has a user in common with the bundle before."""
    item_positions: Rows
    """[n + 3]: items of the ratings, bundle after bundle; then zeros, which the kernel may read."""
    values: Vector32
    """[n + 3]: the ratings."""
    table: npt.NDArray[np.int64]
    """[n_blocks, 4]: first rating, first bundle, number of full bundles, number of bundles of one user after them."""

    @property
    def kernel_arguments(self) -> tuple[Rows, Rows, Mask, Rows, Vector32, npt.NDArray[np.int64]]:
        """The grid as the SGD kernel takes it."""
        bundles = (self.bundle_users, self.bundle_lengths, self.bundle_continues)
        return (*bundles, self.item_positions, self.values, self.table)

    def stratum(self, number: int) -> npt.NDArray[np.int64]:
        """Block numbers of stratum 0..n_groups - 1, in the order in which they are claimed."""
        groups = np.arange(self.n_groups, dtype=np.int64)
        return groups * self.n_groups + (groups + number) % self.n_groups


def n_groups_for(n_ratings: int, n_items: int, n_columns: int) -> int:
    """Groups per side: enough that a group's item vectors fit the cache, not so many that blocks get tiny."""
    by_cache = math.ceil(n_items * n_columns * 4 / _ITEM_GROUP_BYTES)
    by_size = math.isqrt(n_ratings // _MIN_BLOCK_RATINGS)
    least = _MIN_GROUPS
    if n_ratings >= _MANY_RATINGS:
        least = _MIN_GROUPS_OF_MANY if n_columns < _LONG_ROW else _MIN_GROUPS_OF_LONG_ROWS
    return max(least, min(by_cache, by_size))


def partition(counts: Counts, n_groups: int) -> Partition:
    """Rows assigned by falling count, back and forth, so that groups hold nearly equal numbers of rows and ratings."""
    falling = np.argsort(-counts, kind="stable")
    there_and_back = np.concatenate([np.arange(n_groups), np.arange(n_groups)[::-1]]).astype(np.int32)
    group_of, groups = np.empty(counts.size, np.int32), np.resize(there_and_back, counts.size)
    group_of[falling] = groups
    row_at = falling[np.argsort(groups.astype(np.uint16), kind="stable")].astype(np.int32)  # 16 bits: linear time
    position_of = np.empty(counts.size, np.int32)
    position_of[row_at] = np.arange(counts.size, dtype=np.int32)
    return Partition(position_of, row_at, group_of, starts_of(np.bincount(group_of, minlength=n_groups)))


def build_grid(
    ratings: Ratings,
    n_columns: int,
    pool: Executor,
    n_threads: int,
    *,
    statistics: RatingStatistics | None = None,
    scale: float = 1.0,
) -> Grid:
    """The grid of these ratings, divided by scale; the same for every number of threads.

    Linear time, two passes over the ratings: one counts, one puts every rating at its final position.
    """
    from app.engine.sgd.grid_kernels import bundle_blocks, count_runs, place_ratings

    statistics = statistics or rating_statistics(ratings, pool)
    n_groups = n_groups_for(len(ratings), ratings.n_items, n_columns)
    users, items = partition(statistics.user_counts, n_groups), partition(statistics.item_counts, n_groups)
    source = (statistics.user_starts, ratings.item_rows)
    runs = np.zeros((ratings.n_users, n_groups), np.int32)
    for_users = functools.partial(in_parts, pool, least=ROWS_OF_A_PART)
    for_users(count_runs, ratings.n_users, source, users.position_of, items.group_of, runs)
    table, n_bundles = _allocate_bundles(runs, users.starts)
    shape, size = (n_bundles, n_streams_for(n_columns)), len(ratings) + RATINGS_OF_A_STEP - 1
    bundles = np.empty(shape, np.int32), np.empty(n_bundles, np.int32), np.empty(n_bundles, np.bool_)
    pieces = np.empty(n_bundles, np.int64), np.empty(shape, np.int32)
    next_block = np.zeros(1, np.int64)
    run_all(pool, bundle_blocks, [(users.starts, next_block, runs, bundles, pieces, table)] * n_threads)
    placed = np.empty(size, np.int32), np.empty(size, np.float32)
    for column in placed:
        column[len(ratings) :] = 0
    partitions = (users.row_at, items.group_of, items.position_of)
    arguments = ((*source, ratings.values), 1.0 / scale, partitions, runs, *bundles[:2], pieces, *placed)
    for_users(place_ratings, ratings.n_users, *arguments)
    return Grid(n_groups, users, items, *bundles, *placed, table)


def _allocate_bundles(runs: Rows, user_starts: Offsets) -> tuple[npt.NDArray[np.int64], int]:
    """The table with the first rating and the first bundle of each block, and the most bundles that there can be.

    Every bundle takes the last rating of at least one user: a block has no more bundles than users, or ratings.
    """
    n_ratings = np.concatenate([runs[a:b].sum(axis=0, dtype=np.int64) for a, b in pairwise(user_starts.tolist())])
    most = np.minimum(np.repeat(np.diff(user_starts), user_starts.size - 1), n_ratings)
    table = np.zeros((most.size, 4), np.int64)
    table[1:, 0], table[1:, 1] = np.cumsum(n_ratings)[:-1], np.cumsum(most)[:-1]
    return table, int(most.sum())
