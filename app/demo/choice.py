"""What is worth showing: a user with a clear taste, and a new rating that moves that user's list."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

Json = dict[str, Any]

_FEWEST, _MOST = 50, 120
_CAUTION = 8.0  # a category needs about so many ratings before its mean is believed
_TRIED = 40  # what-if questions asked


@dataclass(frozen=True, slots=True)
class Change:
    """One row of a list compared with the list before; places count from 1, None is outside the list."""

    item: Json
    place: int | None
    place_before: int | None

    @property
    def is_new(self) -> bool:
        return self.place_before is None

    @property
    def is_gone(self) -> bool:
        return self.place is None


def user_with_a_clear_taste(ratings: Iterable[Json], categories: Mapping[str, Sequence[str]]) -> str | None:
    """Of the users with 50 to 120 ratings the one whose best-liked category lies furthest above that user's mean.

    `ratings` come user by user. Nobody of that size: the user with the most ratings. None without ratings.
    """
    clearness: dict[str, float] = {}
    counts: dict[str, int] = {}
    for user_id, group in groupby(ratings, key=lambda rating: str(rating["user_id"])):
        mine = list(group)
        counts[user_id] = len(mine)
        if _FEWEST <= len(mine) <= _MOST:
            clearness[user_id] = _clearness(mine, categories)
    ranking: Mapping[str, float] = clearness or counts
    return max(ranking, key=lambda user_id: ranking[user_id], default=None)


def _clearness(ratings: Sequence[Json], categories: Mapping[str, Sequence[str]]) -> float:
    """Largest mean of a category above the user's mean, drawn to 0 where there are few ratings."""
    mean = sum(rating["value"] for rating in ratings) / len(ratings)
    lifts: dict[str, list[float]] = defaultdict(list)
    for rating in ratings:
        for category in categories.get(rating["item_id"], ()):
            lifts[category].append(rating["value"] - mean)
    return max((sum(lift) / (len(lift) + _CAUTION) for lift in lifts.values()), default=0.0)


def telling_rating(
    top: Sequence[Json],
    unlike: Sequence[Json],
    scale: tuple[float, float],
    list_with: Callable[[Json, float], Sequence[Json]],
) -> tuple[Json, float]:
    """The item and value that would change the list most: the lowest for a favourite, or the highest for a stranger.

    `list_with(item, value)` answers what the list would be; it is asked a few dozen times. `top` must not be empty.
    """
    lowest, highest = scale
    tries = [(item, lowest) for item in top[:3]] + [(item, highest) for item in unlike]
    return max(tries[:_TRIED], key=lambda tried: _distance(top, list_with(*tried)))


def changes(before: Sequence[Json], after: Sequence[Json]) -> list[Change]:
    """The new list in its order, then what fell out of it."""
    places = {item["item_id"]: place for place, item in enumerate(before, 1)}
    there = {item["item_id"] for item in after}
    rows = [Change(item, place, places.get(item["item_id"])) for place, item in enumerate(after, 1)]
    return rows + [Change(item, None, places[item["item_id"]]) for item in before if item["item_id"] not in there]


def _distance(before: Sequence[Json], after: Sequence[Json]) -> float:
    """How far rows moved; coming in or falling out counts as the whole length."""
    length = max(len(before), len(after))
    moved = 0
    for change in changes(before, after):
        if change.place is None or change.place_before is None:
            moved += length
        else:
            moved += abs(change.place - change.place_before)
    return moved
