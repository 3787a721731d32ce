"""What one question is answered from, and what it may list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from app.database import Changes
from app.engine.arrays import Rows
from app.engine.finder import FullScan
from app.engine.fold_in import UserSide
from app.engine.top_n_index import Query
from app.recommendations.catalogue import CatalogueView
from app.recommendations.schemas import Source, Wish
from app.recommendations.served import ServedModel

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


@dataclass(frozen=True, slots=True)
class Moment:
    """What a question is answered from: one model, its items, and a connection for what is not in memory."""

    reached: Connection | DBAPIError
    """A connection, or why there is none."""
    served: ServedModel
    view: CatalogueView
    changes: Changes | None = None
    """What the database's were before anything was looked at; None where they are not counted."""
    is_on_loop: bool = False

    @property
    def connection(self) -> Connection:
        """Raises the error of the database that is away: only what it needs is not answered then."""
        if isinstance(self.reached, DBAPIError):
            raise self.reached
        return self.reached

    def expect(self, *, n_listed: int = 0, n_passed_over: int = 0, n_named: int = 0) -> None:
        """Raises TooLongForTheLoop where so much work does not belong on the event loop.

        n_listed: items of the answer; n_passed_over: better ones left out; n_named: ratings and items given.
        """
        if self.is_on_loop and (
            n_listed > MAX_LISTED_AT_ONCE
            or n_passed_over > MAX_PASSED_OVER_AT_ONCE
            or n_named > MAX_NAMED_AT_ONCE
            or self.served.model.item_factors.size
            > (MAX_PRODUCTS_AT_ONCE if isinstance(self.served.finder, FullScan) else MAX_INDEXED_AT_ONCE)
        ):
            raise TooLongForTheLoop

    def rows_of(self, item_ids: Sequence[str]) -> Rows:
        """Rows of these items, -1 for those that the model does not know."""
        return self.served.item_ids.rows_of(list(item_ids)) if item_ids else NO_ROWS

    def texts_of(self, rows: Rows) -> list[str]:
        """See `CatalogueView.texts`."""
        connection = None if isinstance(self.reached, DBAPIError) else self.reached
        return self.view.texts(connection, rows, self.served.item_keys, self.served.item_ids.ids_of)

    def best_for(self, user: UserSide, rated: RatedItems, wish: Wish) -> Rows:
        """The rows that the wish asks for, best first."""
        excluded = self.rows_of(wish.exclude)
        if not wish.include_rated:
            excluded = np.concatenate([excluded, rated.rows]) if excluded.size else rated.rows
        [(rows, _)] = self.served.finder.best(
            [Query(user.factors, self.served.model.mean + user.bias, excluded)],
            wish.offset + wish.n,
            candidates=None if wish.candidates is None else self.rows_of(wish.candidates),
            among=self.view.among(wish.categories),
        )
        return rows[wish.offset :]

    def user_of(self, rated: RatedItems) -> UserSide:
        """By the trained vector where the ratings are those of the training and it is better; else folded in."""
        if rated.trained_row is not None:
            return self.served.fold_in.trained(rated.trained_row, rated.rows, rated.values)
        return self.served.fold_in.fold_in(rated.rows, rated.values)

    def source_of(self, rated: RatedItems, *, before: Source) -> Source:
        if self.served.version is None:
            return before
        if rated.trained_row is not None:
            return "trained"
        return "folded_in" if rated.rows.size else "prior"
