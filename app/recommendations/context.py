"""What one question is answered from, and what it may list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from app.db.connections import Changes
from app.engine.arrays import Rows
from app.engine.data.row_sets import RowSet
from app.engine.fold_in.user import UserVector
from app.engine.retrieval.brute_force import BruteForceRetriever
from app.engine.retrieval.by_interval import best_by_interval
from app.engine.retrieval.by_relevance import DIRECTIONS, best_by_relevance
from app.engine.retrieval.diversity import POOL, diverse_order
from app.engine.retrieval.retriever import Query, RankedRows
from app.ratings import store as ratings
from app.ratings.store import StateOfRatings, UserRatings
from app.recommendations.catalog import CatalogueView
from app.recommendations.schemas import Filter, Source, Wish
from app.recommendations.serving_model import ServedModel

# What an answer on the event loop may take: about a millisecond each.
MAX_LISTED_AT_ONCE = 100
MAX_PASSED_OVER_AT_ONCE = 1_000
MAX_NAMED_AT_ONCE = 1_000
MAX_PRODUCTS_AT_ONCE = 4_000_000
MAX_INDEXED_AT_ONCE = 80_000_000

NO_ROWS = np.zeros(0, np.int32)


class TooLongForTheLoop(Exception):
    """Answering would hold up every other request; ask again in a thread."""


@dataclass(frozen=True, slots=True)
class RatedItems:
    """The ratings that a list is made from, as rows of the served model; -1 for items that it does not know."""

    rows: Rows
    values: npt.NDArray[np.float64]
    trained_row: int | None = None
    """The model's row of the user, where these are the ratings that it learned."""


class RatingsReader(Protocol):
    """Reads what a user has rated by this moment."""

    def state_of_user(self, user_id: str) -> StateOfRatings: ...

    def ratings_of_user(self, user_id: str) -> UserRatings: ...


@dataclass(frozen=True, slots=True)
class Moment:
    """What a question is answered from: one model, its items, and a connection for what is not in memory."""

    reached: Connection | DBAPIError | TooLongForTheLoop
    """A connection, or why there is none."""
    served: ServedModel
    view: CatalogueView
    changes: Changes | None = None
    """What the database's were before anything was looked at; None where they are not counted."""
    is_on_loop: bool = False
    reader: RatingsReader | None = None
    """Reads users' ratings where the connection is not the best way to."""

    @property
    def connection(self) -> Connection:
        """Raises why there is none: only what it needs is not answered then."""
        if isinstance(self.reached, Exception):
            raise self.reached
        return self.reached

    def state_of_user(self, user_id: str) -> StateOfRatings:
        """See `app.ratings.store.state_of_user`."""
        return self.reader.state_of_user(user_id) if self.reader else ratings.state_of_user(self.connection, user_id)

    def ratings_of_user(self, user_id: str) -> UserRatings:
        """What the user has rated."""
        if self.reader:
            return self.reader.ratings_of_user(user_id)
        return ratings.ratings_of_user(self.connection, user_id)

    def expect(self, *, n_listed: int = 0, n_passed_over: int = 0, n_named: int = 0, n_products: int = 0) -> None:
        """Raises TooLongForTheLoop where so much work does not belong on the event loop.

        n_listed: items of the answer; n_passed_over: better ones left out; n_named: ratings and items given;
        n_products: multiplications beside those of scoring.
        """
        if self.is_on_loop and (
            n_listed > MAX_LISTED_AT_ONCE
            or n_passed_over > MAX_PASSED_OVER_AT_ONCE
            or n_named > MAX_NAMED_AT_ONCE
            or n_products > MAX_PRODUCTS_AT_ONCE
            or self.served.model.item_factors.size
            > (MAX_PRODUCTS_AT_ONCE if isinstance(self.served.retriever, BruteForceRetriever) else MAX_INDEXED_AT_ONCE)
        ):
            raise TooLongForTheLoop

    def expect_list(self, wish: Wish, n_before: int = 0, n_named: int = 0) -> None:
        """The same for a list of which n_before items are passed over, made from so many ratings and named items."""
        model = self.served.model
        n_products = wish.diversity and (n_before + wish.n) * POOL * model.n_factors
        if wish.rank_by == "relevance":
            n_products += model.n_items * (model.n_factors + DIRECTIONS)
        elif wish.rank_by != "value":
            n_products += model.n_items * (model.n_factors + 1) ** 2 / 2
        if wish.n_reasons is not None:
            n_products += wish.n * n_named * model.n_factors
        n_named += len(wish.exclude) + len(wish.candidates or ())
        self.expect(n_listed=wish.n, n_passed_over=n_before, n_named=n_named, n_products=int(n_products))

    def rows_of(self, item_ids: Sequence[str]) -> Rows:
        """Rows of these items, -1 for those that the model does not know."""
        return self.served.item_ids.rows_of(list(item_ids)) if item_ids else NO_ROWS

    def texts_of(self, rows: Rows) -> list[str]:
        """See `CatalogueView.texts`."""
        return self.view.texts(self._connection_unless_away, rows, self.served.item_keys, self.served.item_ids.ids_of)

    def _connection_unless_away(self) -> Connection | None:
        return None if isinstance(self.reached, DBAPIError) else self.connection

    def among(self, wanted: Filter) -> RowSet | None:
        """Items that a list may hold; None means all."""
        return self.view.among(wanted, self.served.model.item_counts)

    def best_for(self, user: UserVector, rated: RatedItems, wish: Wish, n: int) -> RankedRows:
        """The n best rows for the wish in its order, from the very first on, and what they were ranked by."""
        return self.best_for_each([user], [rated], wish, n)[0]

    def best_for_each(
        self, users: Sequence[UserVector], rated: Sequence[RatedItems], wish: Wish, n: int
    ) -> Sequence[RankedRows]:
        """The same for several users, who share a scan of the items."""
        found = self._ranked(users, rated, wish, max(n, POOL) if wish.diversity else n)
        return [self._diverse(each, wish.diversity, n) for each in found] if wish.diversity else found

    def _diverse(self, found: RankedRows, diversity: float, n: int) -> RankedRows:
        rows, scores = found
        head = rows[:POOL]
        order = diverse_order(scores[:POOL], self.served.model.item_factors[head], diversity, min(n, POOL))
        if n > POOL:
            order = np.append(order, np.arange(POOL, rows.size))
        return rows[order], scores[order]

    def _ranked(
        self, users: Sequence[UserVector], rated: Sequence[RatedItems], wish: Wish, n: int
    ) -> Sequence[RankedRows]:
        served, exclude = self.served, self.rows_of(wish.exclude)
        excluded = [exclude if wish.include_rated else _joined(exclude, each.rows) for each in rated]
        candidates = None if wish.candidates is None else self.rows_of(wish.candidates)
        among = self.among(wish.filter)
        if wish.rank_by == "value":
            bases = [served.model.mean + user.bias for user in users]
            queries = list(map(Query, (user.factors for user in users), bases, excluded))
            return served.retriever.search(queries, n, candidates=candidates, among=among)
        if among is not None:
            candidates = among.rows() if candidates is None else np.intersect1d(candidates, among.rows())
        if wish.rank_by == "relevance":
            by_relevance = partial(best_by_relevance, served.model, n=n, candidates=candidates)
            asked = zip(users, rated, excluded, strict=True)
            return [by_relevance(user, rated=each.rows, excluded=rows) for user, each, rows in asked]
        by_interval = partial(best_by_interval, served.fold_in, n=n, end=wish.rank_by, candidates=candidates)
        return [by_interval(user, level=wish.level, excluded=rows) for user, rows in zip(users, excluded, strict=True)]

    def user_of(self, rated: RatedItems) -> UserVector:
        """By the trained vector where the ratings are those of the training and it is better; else folded in."""
        fold_in = self.served.fold_in
        user = fold_in.solve(rated.rows, rated.values.astype(np.float32))
        return user if rated.trained_row is None else fold_in.trained(rated.trained_row, user)

    def source_of(self, rated: RatedItems, *, before: Source) -> Source:
        if self.served.version is None:
            return before
        if rated.trained_row is not None:
            return "trained"
        return "folded_in" if rated.rows.size else "prior"


def _joined(some: Rows, others: Rows) -> Rows:
    return np.concatenate([some, others]) if some.size else others
