"""What is kept of users between their requests: their vectors, and the lists that nothing has changed since."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from app.db.connections import Changes
from app.engine.fold_in.user import UserVector
from app.ratings.store import StateOfRatings
from app.recommendations.catalog import CatalogueView
from app.recommendations.context import RatedItems
from app.recommendations.schemas import Wish
from app.recommendations.serving_model import ServedModel

MAX_LISTS = 8
"""Lists kept of each user."""


class Lists(NamedTuple):
    """Lists of one user by what was asked for, from one view; all of it was so at one moment of the database."""

    view: CatalogueView
    changes: Changes | None
    answers: dict[Wish, bytes]


@dataclass(slots=True)
class Taste:
    """One user's ratings and vector in one served model."""

    served: ServedModel
    state: StateOfRatings
    rated: RatedItems
    user: UserVector
    lists: Lists | None = field(default=None)

    def lists_at(self, view: CatalogueView, changes: Changes | None) -> dict[Wish, bytes]:
        """The lists that hold at this moment, at which the taste itself is known to hold."""
        lists = self.lists
        if lists is None or lists.view is not view:
            lists = self.lists = Lists(view, changes, {})
        elif lists.changes != changes:
            lists = self.lists = Lists(view, changes, lists.answers)
        if len(lists.answers) >= MAX_LISTS:
            lists.answers.clear()
        return lists.answers


class KeptTastes:
    """The users who asked last, so many at most."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tastes: OrderedDict[str, Taste] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, user_id: str, served: ServedModel | None) -> Taste | None:
        """What is kept of the user, if it is of this model; whether it still holds is for the caller to see."""
        with self._lock:
            taste = self._tastes.get(user_id)
            if taste is None or taste.served is not served:
                return None
            self._tastes.move_to_end(user_id)
            return taste

    def keep(self, user_id: str, taste: Taste) -> None:
        if not self._most:
            return
        with self._lock:
            self._tastes[user_id] = taste
            self._tastes.move_to_end(user_id)
            if len(self._tastes) > self._most:
                self._tastes.popitem(last=False)
