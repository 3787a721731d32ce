"""Picks what the demo shows: a user with clear preferences, and a new rating that changes that user's list."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

Json = dict[str, Any]

_MIN_RATINGS, _MAX_RATINGS = 50, 120
_SHRINKAGE = 8.0  # number of ratings at which the mean of a category counts half
_MAX_TRIES = 40  # what-if requests to the service


class Change(NamedTuple):
    """One row of a list compared with the list before; ranks count from 1, None means outside the list."""

    item: Json
    rank: int | None
    rank_before: int | None


def user_with_clear_preferences(ratings: Iterable[Json], categories: Mapping[str, Sequence[str]]) -> str | None:
    """The user with 50 to 120 ratings whose favourite category lies furthest above that user's mean rating.

    `ratings` are grouped by user. If no user has so many: the user with the most ratings. None without ratings.
    """
    by_user = {user_id: list(group) for user_id, group in groupby(ratings, key=lambda rating: str(rating["user_id"]))}
    clearness = {
        user_id: _clearness(group, categories)
        for user_id, group in by_user.items()
        if _MIN_RATINGS <= len(group) <= _MAX_RATINGS
    }
    ranking: Mapping[str, float] = clearness or {user_id: len(group) for user_id, group in by_user.items()}
    return max(ranking, key=lambda user_id: ranking[user_id], default=None)


def _clearness(ratings: Sequence[Json], categories: Mapping[str, Sequence[str]]) -> float:
    """Largest distance of a category's mean above the user's mean, shrunk towards 0 for few ratings."""
    mean = sum(rating["value"] for rating in ratings) / len(ratings)
    lifts: dict[str, list[float]] = defaultdict(list)
    for rating in ratings:
        for category in categories.get(rating["item_id"], ()):
            lifts[category].append(rating["value"] - mean)
    return max((sum(lift) / (len(lift) + _SHRINKAGE) for lift in lifts.values()), default=0.0)


def most_influential_rating(
    top: Sequence[Json],
    unusual: Sequence[Json],
    scale: tuple[float, float],
    list_with: Callable[[Json, float], Sequence[Json]],
) -> tuple[Json, float]:
    """The item and value that would change the list most: a low rating of a top item, or a high one of an unusual item.

    `list_with(item, value)` returns the list after that rating; it is called a few dozen times. `top` is not empty.
    """
    lowest, highest = scale
    tries = [(item, lowest) for item in top[:3]] + [(item, highest) for item in unusual]
    return max(tries[:_MAX_TRIES], key=lambda tried: _distance(top, list_with(*tried)))


def changes(before: Sequence[Json], after: Sequence[Json]) -> list[Change]:
    """The new list in its order, then the items that left it."""
    ranks_before = {item["item_id"]: rank for rank, item in enumerate(before, 1)}
    item_ids = {item["item_id"] for item in after}
    rows = [Change(item, rank, ranks_before.get(item["item_id"])) for rank, item in enumerate(after, 1)]
    return rows + [
        Change(item, None, ranks_before[item["item_id"]]) for item in before if item["item_id"] not in item_ids
    ]


def _distance(before: Sequence[Json], after: Sequence[Json]) -> float:
    """Sum of the rank changes; an item that enters or leaves counts as the length of the list."""
    length = max(len(before), len(after))
    return sum(
        abs(rank - rank_before) if rank and rank_before else length for _, rank, rank_before in changes(before, after)
    )
