"""What one request is answered from, and how much work the event loop may do for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from app.db.connections import DataVersion
from app.engine.retrieval.brute_force import BruteForceRetriever
from app.engine.retrieval.by_relevance import DIRECTIONS
from app.engine.retrieval.diversity import POOL
from app.ratings import user_ratings
from app.ratings.user_ratings import CurrentRatings, RatingsState, UserRatings
from app.recommendations.catalog import CatalogView
from app.recommendations.schemas import ListRequest
from app.recommendations.serving_model import ServingModel, ServingModels

# Limits of what is answered on the event loop: about a millisecond each.
MAX_LISTED = 100
MAX_SKIPPED = 1_000
MAX_NAMED = 1_000
MAX_PRODUCTS = 4_000_000
MAX_INDEXED = 80_000_000


class WouldBlockEventLoop(Exception):
    """The answer takes so long that it would delay all other requests; answer in a thread instead."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What one request is answered from: one model, its items, and a connection for what is not in memory."""

    models: ServingModels
    serving_model: ServingModel
    view: CatalogView
    database: Connection | DBAPIError | WouldBlockEventLoop
    """A connection, or the reason why there is none."""
    data_version: DataVersion | None = None
    """The database's count of commits before anything was read; None if they are not counted."""
    current_ratings: CurrentRatings | None = None
    """The ratings of the one user in question, if they were read before."""
    is_on_loop: bool = False

    @property
    def connection(self) -> Connection:
        """Raises the reason if there is none."""
        if isinstance(self.database, Exception):
            raise self.database
        return self.database

    def at_version(self, version: int) -> RequestContext:
        """The context for a later page of a list that began with this version; raises VersionGone."""
        if version == self.serving_model.version:
            return self
        if self.is_on_loop:
            raise WouldBlockEventLoop
        model = self.models.of_version(self.connection, version)
        return replace(self, serving_model=model, view=model.catalog.view(self.connection), data_version=None)

    def read_state(self, user_id: str) -> RatingsState:
        """See `user_ratings.read_state`."""
        if self.current_ratings:
            return self.current_ratings.read_state(user_id)
        return user_ratings.read_state(self.connection, user_id)

    def read_ratings(self, user_id: str) -> UserRatings:
        """See `user_ratings.read_one`."""
        if self.current_ratings:
            return self.current_ratings.read_one(user_id)
        return user_ratings.read_one(self.connection, user_id)

    def connection_unless_away(self) -> Connection | None:
        """None while the database is away; raises WouldBlockEventLoop."""
        return None if isinstance(self.database, DBAPIError) else self.connection

    def check_work(self, *, n_listed: int = 0, n_skipped: int = 0, n_named: int = 0, n_products: float = 0) -> None:
        """Raises WouldBlockEventLoop if this is too much work for the event loop.

        n_listed: items in the answer   n_skipped: better items left out   n_named: ratings and items in the request
        n_products: multiplications besides those of scoring
        """
        if not self.is_on_loop:
            return
        model = self.serving_model
        most_scored = MAX_PRODUCTS if isinstance(model.retriever, BruteForceRetriever) else MAX_INDEXED
        if (
            n_listed > MAX_LISTED
            or n_skipped > MAX_SKIPPED
            or n_named > MAX_NAMED
            or n_products > MAX_PRODUCTS
            or model.model.item_factors.size > most_scored
        ):
            raise WouldBlockEventLoop

    def check_list_work(self, request: ListRequest, n_skipped: int, n_ratings: int) -> None:
        """The same for a list after n_skipped items, made from n_ratings ratings."""
        model = self.serving_model.model
        n_products: float = request.diversity and (n_skipped + request.n) * POOL * model.n_factors
        if request.rank_by == "relevance":
            n_products += model.n_items * (model.n_factors + DIRECTIONS)
        elif request.rank_by != "value":
            n_products += model.n_items * (model.n_factors + 1) ** 2 / 2
        if request.n_reasons is not None:
            n_products += request.n * n_ratings * model.n_factors
        n_named = n_ratings + len(request.exclude) + len(request.candidates or ())
        self.check_work(n_listed=request.n, n_skipped=n_skipped, n_named=n_named, n_products=n_products)
