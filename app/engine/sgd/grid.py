"""The grid: ratings partitioned so that threads never meet and rows stay in the core's own cache.

Users and items are dealt into n_groups groups each, which cuts the ratings into n_groups^2 blocks. Stratum s is the
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

from app.engine.arrays import Counts, Offsets, Rows, Vector32
from app.engine.data.ratings import Ratings
from app.engine.data.statistics import Tally, tally
from app.engine.parallel import ROWS_OF_A_PART, in_parts, run_all
from app.engine.sgd.kernel_template import RATINGS_OF_A_STEP, n_streams_for

_ITEM_GROUP_BYTES = 4096 * 1024
"""Four times a common second-level cache: what does not stay there is asked for ahead, and bundles are long."""
_MIN_GROUPS = 8
"""So many threads at most."""
_MIN_GROUPS_OF_MANY = 6
_MANY_RATINGS = 5_000_000
"""From here on vectors of users come from main memory, once for every group: fewer groups are 5 % faster."""
_LONG_ROW = 96
_MIN_GROUPS_OF_LONG_ROWS = 4
"""Few users fit in registers side by side there, so bundles hold few ratings: again fewer groups are 7 % faster."""
_MIN_BLOCK_RATINGS = 4096
"""Blocks of fewer ratings than this cost more in hand-over than they gain in cache."""


@dataclass(frozen=True, slots=True)
class Deal:
    """One side's rows dealt into groups: places are positions in the order of groups, each group contiguous."""

    place_of: Rows
    """[n]: place of each row."""
    row_at: Rows
    """[n]: row at each place; the inverse of place_of."""
    group_of: Rows
    """[n]: group of each row."""
    starts: Offsets
    """[n_groups + 1]: first place of each group."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Ratings in blocks, their rows replaced by places; block (g, h) is number g * n_groups + h.

    A bundle is some users, as many as the bundles are wide, and equally many ratings of each: the first of every user,
    then the second of every user, and so on. What is left of a block, less users than that, is bundles of one user.
    """

    n_groups: int
    users: Deal
    items: Deal
    bundle_users: Rows
    """[n_bundles, n_streams]: places; of a bundle of one user only the first, -1 in the others."""
    bundle_lengths: Rows
    """[n_bundles]: ratings of each user."""
    bundle_continues: npt.NDArray[np.bool_]
    """[n_bundles]: whether it has a user in common with the bundle before."""
    item_places: Rows
    """[n + 3]: items of the ratings, bundle after bundle; behind them zeros, which the kernel may look at."""
    values: Vector32
    """[n + 3]: the ratings."""
    table: npt.NDArray[np.int64]
    """[n_blocks, 4]: first rating, first bundle, number of full bundles, number of bundles of one user after them."""

    def stratum(self, number: int) -> npt.NDArray[np.int64]:
        """Block numbers of stratum 0..n_groups - 1, in the order in which they are offered."""
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


def deal(counts: Counts, n_groups: int) -> Deal:
    """Rows dealt by falling count, back and forth, so that groups hold nearly equal numbers of rows and ratings."""
    falling = np.argsort(-counts, kind="stable")
    there_and_back = np.concatenate([np.arange(n_groups), np.arange(n_groups)[::-1]]).astype(np.int32)
    group_of, groups = np.empty(counts.size, np.int32), np.resize(there_and_back, counts.size)
    group_of[falling] = groups
    row_at = falling[np.argsort(groups.astype(np.uint16), kind="stable")].astype(np.int32)  # 16 bits: linear time
    place_of = np.empty(counts.size, np.int32)
    place_of[row_at] = np.arange(counts.size, dtype=np.int32)
    starts = np.zeros(n_groups + 1, np.int64)
    np.cumsum(np.bincount(group_of, minlength=n_groups), out=starts[1:])
    return Deal(place_of, row_at, group_of, starts)


def lay_out(
    ratings: Ratings,
    n_columns: int,
    pool: Executor,
    n_threads: int,
    *,
    counted: Tally | None = None,
    scale: float = 1.0,
) -> Grid:
    """The grid of these ratings, divided by scale; the same for every number of threads.

    Linear time, two passes over the ratings: one counts, one puts every rating at its final place.
    """
    from app.engine.sgd.grid_kernels import bundle_blocks, count_runs, place_ratings

    counted = counted or tally(ratings, pool)
    n_groups = n_groups_for(len(ratings), ratings.n_items, n_columns)
    users, items = deal(counted.user_counts, n_groups), deal(counted.item_counts, n_groups)
    source = (counted.user_starts, ratings.item_rows)
    runs = np.zeros((ratings.n_users, n_groups), np.int32)
    of_users = functools.partial(in_parts, pool, least=ROWS_OF_A_PART)
    of_users(count_runs, ratings.n_users, *source, users.place_of, items.group_of, runs)
    table, n_bundles = _room_for_bundles(runs, users.starts)
    bundles = (
        np.empty((n_bundles, n_streams_for(n_columns)), np.int32),
        np.empty(n_bundles, np.int32),
        np.empty(n_bundles, np.bool_),
    )
    starts, next_pieces = np.empty(n_bundles, np.int64), np.empty(bundles[0].shape, np.int32)
    turn = np.zeros(1, np.int64)
    run_all(pool, bundle_blocks, [(users.starts, turn, runs, *bundles, starts, next_pieces, table)] * n_threads)
    room = len(ratings) + RATINGS_OF_A_STEP - 1
    placed = (np.empty(room, np.int32), np.empty(room, np.float32))
    for column in placed:
        column[len(ratings) :] = 0
    renamed = (users.row_at, items.group_of, items.place_of)
    where = (runs, bundles[0], bundles[1], starts, next_pieces)
    of_users(place_ratings, ratings.n_users, *source, ratings.values, 1.0 / scale, *renamed, *where, *placed)
    return Grid(n_groups, users, items, *bundles, *placed, table)


def _room_for_bundles(runs: Rows, user_starts: Offsets) -> tuple[npt.NDArray[np.int64], int]:
    """The table with the first rating and the first bundle of each block, and the most bundles that there can be.

    Every bundle takes the last rating of at least one user: a block has no more bundles than users, or ratings.
    """
    n_ratings = np.concatenate([runs[a:b].sum(axis=0, dtype=np.int64) for a, b in pairwise(user_starts.tolist())])
    most = np.minimum(np.repeat(np.diff(user_starts), user_starts.size - 1), n_ratings)
    table = np.zeros((most.size, 4), np.int64)
    table[1:, 0], table[1:, 1] = np.cumsum(n_ratings)[:-1], np.cumsum(most)[:-1]
    return table, int(most.sum())
