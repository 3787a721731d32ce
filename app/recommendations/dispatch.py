"""Where a request is answered: on the event loop if that is quick, else in a thread."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Annotated, Concatenate, ParamSpec, TypeVar

import anyio.to_thread
from fastapi import Depends, Request

from app.db.connections import Reader
from app.db.engine import DATABASE_IS_AWAY, Database
from app.ratings.user_ratings import CachedRatingsGone, CoalescedReader
from app.recommendations.context import RequestContext, WouldBlockEventLoop
from app.recommendations.item_lists import RecentPopularity
from app.recommendations.lists import ANSWERED_FROM, batch_lines, list_for_user
from app.recommendations.schemas import ListRequest
from app.recommendations.serving_model import ServingModels
from app.recommendations.user_cache import UserCache
from app.registry.live import LiveModel
from app.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

USERS_AT_ONCE = 64
"""Users of a batch who are answered together."""


class Recommender:
    """Answers requests for lists and predictions; one per process, shared by its threads."""

    def __init__(self, database: Database, live: LiveModel, settings: Settings) -> None:
        self.recent_popularity = RecentPopularity()
        self._database = database
        self._models = ServingModels(database, live, settings)
        self._users = UserCache(settings.user_cache_size)
        self._reader = database.open_reader() if database.is_sqlite else None
        self._coalesced = None if database.is_sqlite else CoalescedReader(database)

    def close(self) -> None:
        """Close the event loop's connection, or end the thread that reads ratings for it."""
        if self._reader:
            self._reader.close()
        if self._coalesced:
            self._coalesced.close()

    async def list_for_user(self, user_id: str, request: ListRequest) -> bytes:
        """See `lists.list_for_user`; the cached list if nothing at all was committed since it was made."""
        model = self._models.prepared()
        user = self._users.get(user_id, model)
        if self._reader and user and user.lists and user.is_current(self._reader.data_version()):
            body = user.lists.bodies.get(request)
            if body is not None:
                ANSWERED_FROM["cached"].inc()
                return body
        if self._coalesced and (context := await self._context_of_user(self._coalesced, user_id)):
            with contextlib.suppress(WouldBlockEventLoop, CachedRatingsGone):
                return list_for_user(context, self._users, user_id, request)
        return await self.answer(list_for_user, self._users, user_id, request)

    async def batch(self, user_ids: Sequence[str], request: ListRequest) -> AsyncIterator[bytes]:
        """See `lists.batch_lines`, a group of users at a time."""
        for first in range(0, len(user_ids), USERS_AT_ONCE):
            group = user_ids[first : first + USERS_AT_ONCE]
            yield await anyio.to_thread.run_sync(self.answer_in_thread, batch_lines, group, request)

    async def answer(
        self, handler: Callable[Concatenate[RequestContext, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The result of `handler(context, ...)`, on the event loop if it is quick there, else from a thread.

        With SQLite and everything in memory an answer takes less time than a thread switch, so it is made at once, on
        the event loop's own connection. A database server is awaited in a thread, and so is whatever must be built
        first, and whatever is large.
        """
        if self._reader:
            try:
                if context := self._context_on_loop(self._reader):
                    return handler(context, *args, **kwargs)
            except WouldBlockEventLoop:
                pass
            finally:
                self._reader.end()
        return await anyio.to_thread.run_sync(partial(self.answer_in_thread, handler, *args, **kwargs))

    def answer_in_thread(
        self, handler: Callable[Concatenate[RequestContext, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The result of `handler(context, ...)` in this thread; from memory alone while the database is away."""
        try:
            with self._database.read() as connection:
                model = self._models.active(connection)
                context = RequestContext(self._models, model, model.catalog.view(connection), connection)
                return handler(context, *args, **kwargs)
        except DATABASE_IS_AWAY as away:
            cached = self._models.prepared()
            if cached is None or cached.catalog.last_view is None:
                raise
            context = RequestContext(self._models, cached, cached.catalog.last_view, away)
        return handler(context, *args, **kwargs)

    def _context_on_loop(self, reader: Reader) -> RequestContext | None:
        """The context if nothing must be built or awaited."""
        model = self._models.prepared()
        if model is None:
            return None
        data_version = reader.data_version()  # before anything else is read: later commits count as new
        view = model.catalog.current_view(reader.connection, data_version)
        if view is None:
            return None
        return RequestContext(self._models, model, view, reader.connection, data_version, is_on_loop=True)

    async def _context_of_user(self, reader: CoalescedReader, user_id: str) -> RequestContext | None:
        """The context of one user's list on a server, if nothing else must be read or built."""
        model = self._models.prepared()
        if model is None:
            return None
        user = self._users.get(user_id, model)
        try:
            current = await reader.read(user_id, user.state if user else None)
        except DATABASE_IS_AWAY:
            return None  # a thread tries again, and answers from memory if it can
        view = model.catalog.last_view
        if view is None or view.revision < current.items_revision:
            return None
        return RequestContext(
            self._models, model, view, WouldBlockEventLoop(), current_ratings=current, is_on_loop=True
        )


async def recommender_of(request: Request) -> Recommender:
    recommender: Recommender = request.app.state.recommender
    return recommender


RecommenderDep = Annotated[Recommender, Depends(recommender_of)]
