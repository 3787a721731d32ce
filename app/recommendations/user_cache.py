"""Users cached between their requests: their vectors, and their lists for as long as nothing is committed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from app.db.connections import DataVersion
from app.ratings.user_ratings import RatingsState
from app.recommendations.catalog import CatalogView
from app.recommendations.schemas import ListRequest
from app.recommendations.serving_model import ModelUser, ServingModel

MAX_LISTS = 8
"""Lists cached of each user."""


class CachedLists(NamedTuple):
    """Lists of one user, as JSON, all from one view of the catalog and valid for one state of the database."""

    view: CatalogView
    data_version: DataVersion | None
    bodies: dict[ListRequest, bytes]


@dataclass(slots=True)
class CachedUser:
    """One user's ratings and vector in one serving model."""

    serving_model: ServingModel
    state: RatingsState
    user: ModelUser
    lists: CachedLists | None = None

    def is_current(self, data_version: DataVersion | None) -> bool:
        """Whether nothing was committed since the lists were last valid; False if commits are not counted."""
        return data_version is not None and self.lists is not None and self.lists.data_version == data_version

    def lists_at(self, view: CatalogView, data_version: DataVersion | None) -> dict[ListRequest, bytes]:
        """The lists that are valid with this view, and the place for new ones; the user itself must be valid."""
        lists = self.lists
        if lists is None or lists.view is not view:
            lists = self.lists = CachedLists(view, data_version, {})
        elif lists.data_version != data_version:
            lists = self.lists = CachedLists(view, data_version, lists.bodies)
        if len(lists.bodies) >= MAX_LISTS:
            lists.bodies.clear()
        return lists.bodies


class UserCache:
    """The users with the most recent requests (LRU), shared by all threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._users: OrderedDict[str, CachedUser] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, user_id: str, serving_model: ServingModel | None) -> CachedUser | None:
        """The user as cached for this model; the caller checks whether the ratings are still the same."""
        with self._lock:
            user = self._users.get(user_id)
            if user is None or user.serving_model is not serving_model:
                return None
            self._users.move_to_end(user_id)
            return user

    def put(self, user_id: str, user: CachedUser) -> None:
        if not self._size:
            return
        with self._lock:
            self._users[user_id] = user
            self._users.move_to_end(user_id)
            if len(self._users) > self._size:
                self._users.popitem(last=False)
