"""What a request is answered from, and where: on the event loop if that is quick, else in a thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Annotated, NoReturn, TypeVar, TypeVarTuple, cast

import anyio.to_thread
from fastapi import Depends, Request
from sqlalchemy import Connection

from app.db.connections import DataVersion, Reader
from app.db.engine import DATABASE_IS_AWAY, Database
from app.engine.retrieval.brute_force import BruteForceRetriever
from app.engine.retrieval.by_relevance import DIRECTIONS
from app.engine.retrieval.diversity import POOL
from app.ratings.user_ratings import CoalescedReader, CurrentRatings
from app.recommendations.catalog import CatalogView
from app.recommendations.popularity import MAX_WINDOWS, Window
from app.recommendations.schemas import ListRequest
from app.recommendations.serving_model import ServingModel, UserSlot
from app.recommendations.serving_models import ServingModels
from app.registry.live_model import LiveModel
from app.settings import Settings

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Limits of what is answered on the event loop: about a millisecond each.
MAX_LISTED = 100
MAX_SKIPPED = 1_000
MAX_NAMED = 1_000
MAX_PRODUCTS = 4_000_000
MAX_INDEXED = 80_000_000


class WouldBlockEventLoop(Exception):
    """The answer takes so long that it would delay all other requests; answer in a thread instead."""


class _NoConnection:
    """Stands in for a connection: whoever uses it gets the reason why there is none."""

    def __init__(self, reason: Exception) -> None:
        self._reason = reason

    def __getattr__(self, _name: str) -> NoReturn:
        raise self._reason


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What a request is answered from: one model, its items, and a connection for what is not in memory."""

    recommender: Recommender
    serving_model: ServingModel
    view: CatalogView
    connection: Connection
    """Its use raises WouldBlockEventLoop, or the database's error while that is away."""
    data_version: DataVersion | None = None
    """Of the database, before anything was read; None if that is not known."""
    current_ratings: CurrentRatings | None = None
    """The ratings of the one user in question, if they were read before."""
    is_on_loop: bool = False

    def at_version(self, version: int) -> RequestContext:
        """The context for a later page of a list that began with this version; raises VersionGone."""
        if version == self.serving_model.version:
            return self
        if self.is_on_loop:
            raise WouldBlockEventLoop
        model = self.recommender.models.of_version(self.connection, version)
        return replace(self, serving_model=model, view=model.catalog.view(self.connection), data_version=None)

    def check_work(self, request: ListRequest, n_ratings: int = 0, n_skipped: int = 0) -> None:
        """Raises WouldBlockEventLoop if a list is too much work for the event loop.

        n_ratings: ratings that it is made from   n_skipped: better items left out
        """
        if not self.is_on_loop:
            return
        model = self.serving_model.model
        n_products: float = request.diversity and (n_skipped + request.n) * POOL * model.n_factors
        if request.rank_by == "relevance":
            n_products += model.n_items * (model.n_factors + DIRECTIONS)
        elif request.rank_by != "value":
            n_products += model.n_items * (model.n_factors + 1) ** 2 / 2
        if request.n_reasons is not None:
            n_products += request.n * n_ratings * model.n_factors
        scores_all = isinstance(self.serving_model.retriever, BruteForceRetriever)
        if (
            request.n > MAX_LISTED
            or n_skipped > MAX_SKIPPED
            or n_ratings + len(request.exclude) + len(request.candidates or ()) > MAX_NAMED
            or n_products > MAX_PRODUCTS
            or model.item_factors.size > (MAX_PRODUCTS if scores_all else MAX_INDEXED)
        ):
            raise WouldBlockEventLoop


class Recommender:
    """Answers requests for lists and predictions; one per process, shared by its threads."""

    def __init__(self, database: Database, live: LiveModel, settings: Settings) -> None:
        self.models = ServingModels(database, live, settings)
        self.window_of = lru_cache(MAX_WINDOWS)(Window)
        self.slot_of = lru_cache(settings.user_cache_size)(UserSlot)
        """The place in memory of a user id; those with the most recent requests stay."""
        self._database = database
        self._reader = Reader(database.engine) if database.is_sqlite else None
        self._last_on_loop: RequestContext | None = None
        self._coalesced = None if database.is_sqlite else CoalescedReader(database)

    def close(self) -> None:
        """Close the event loop's connection, or end the thread that reads ratings for it."""
        if self._reader:
            self._reader.connection.close()
        if self._coalesced:
            self._coalesced.close()

    async def answer(
        self, handler: Callable[[RequestContext, *Ts], T], *args: *Ts, reads_only_user: str | None = None
    ) -> T:
        """The result of `handler(context, ...)`, on the event loop if it is quick there, else from a thread.

        With SQLite and everything in memory an answer takes less time than a thread switch, so it is made at once, on
        the event loop's own connection. A database server is awaited in a thread, or, if a handler reads the ratings of
        one user and nothing else, together with those of simultaneous requests. A thread also gets whatever must be
        built first, and whatever is large.
        """
        context = None
        try:
            if self._reader:
                context = self._last_on_loop
                version, model = self._reader.data_version(), self.models.current  # before anything else is read
                if context is None or context.data_version != version or context.serving_model is not model:
                    context = self._last_on_loop = self._context_at(version, model, self._reader)
            elif self._coalesced and reads_only_user is not None:
                context = await self._context_of_user(self._coalesced, reads_only_user)
            if context:
                return handler(context, *args)
        except WouldBlockEventLoop:
            pass
        finally:
            if self._reader:
                self._reader.connection.rollback()  # the next read sees later commits
        return await anyio.to_thread.run_sync(partial(self.answer_in_thread, handler, *args))

    def answer_in_thread(self, handler: Callable[[RequestContext, *Ts], T], *args: *Ts) -> T:
        """The result of `handler(context, ...)` in this thread; from memory alone while the database is away."""
        try:
            with self._database.read() as connection:
                model = self.models.active(connection)
                return handler(RequestContext(self, model, model.catalog.view(connection), connection), *args)
        except DATABASE_IS_AWAY as away:
            cached = self.models.current
            if cached is None or cached.catalog.last_view is None:
                raise
            nowhere = cast(Connection, _NoConnection(away))
            context = RequestContext(self, cached, cached.catalog.last_view, nowhere)
        return handler(context, *args)

    def _context_at(self, version: DataVersion, model: ServingModel | None, reader: Reader) -> RequestContext | None:
        """The context on SQLite if nothing must be built first."""
        view = model.catalog.current_view(reader.connection) if model else None
        if model is None or view is None:
            return None
        return RequestContext(self, model, view, reader.connection, version, is_on_loop=True)

    async def _context_of_user(self, reader: CoalescedReader, user_id: str) -> RequestContext | None:
        """On a server: the context with the user's current ratings, if nothing else must be read or built."""
        model, cached = self.models.current, self.slot_of(user_id).cached
        if model is None:
            return None
        try:
            current = await reader.read(user_id, cached.state if cached and cached.serving_model is model else None)
        except DATABASE_IS_AWAY:
            return None  # a thread tries again, and answers from memory if it can
        view, nowhere = model.catalog.last_view, cast(Connection, _NoConnection(WouldBlockEventLoop()))
        if view is None or view.revision < current.items_revision:
            return None
        return RequestContext(self, model, view, nowhere, current_ratings=current, is_on_loop=True)


async def recommender_of(request: Request) -> Recommender:
    recommender: Recommender = request.app.state.recommender
    return recommender


RecommenderDep = Annotated[Recommender, Depends(recommender_of)]
