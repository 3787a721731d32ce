"""Predicted ratings and top-N lists: read the user's ratings of this moment, fold in, score, shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Concatenate, NamedTuple, ParamSpec, TypeVar

import anyio.to_thread
import numpy as np
import numpy.typing as npt
from fastapi import Depends, Request
from sqlalchemy import Connection

from app.database import Database
from app.engine.arrays import Rows
from app.engine.fold_in import INTERVAL_LEVEL, UserSide, interval
from app.engine.top_n import popular_items, similar_items, top_n
from app.items import store as items
from app.ratings import store as ratings
from app.recommendations.catalogue import CatalogueView
from app.recommendations.schemas import (
    PopularItem,
    PopularItemsOut,
    PredictionOut,
    PredictionsOut,
    RecommendationsOut,
    RecommendedItem,
    SimilarItem,
    SimilarItemsOut,
    Source,
)
from app.recommendations.served import Means, ServedModel
from app.registry.artifacts import LoadedVersion
from app.registry.live import LiveModel
from app.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

DECIMALS = 4  # of predicted ratings in answers; lists are ordered by the exact numbers
NO_ROWS = np.zeros(0, np.int32)


class Interval(NamedTuple):
    """A predicted rating and the ends of its interval, on the rating scale."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Wish:
    """What a list may hold: how many items, from where, and which not."""

    n: int = 10
    offset: int = 0
    categories: Sequence[str] = ()
    exclude: Sequence[str] = ()
    candidates: Sequence[str] | None = None
    include_rated: bool = False


@dataclass(frozen=True, slots=True)
class RatedItems:
    """The ratings that a list is made from, as rows of the served model; -1 for items that it does not know."""

    rows: Rows
    values: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moment:
    """What a question is answered from: one model, its items, and a connection for what is not in memory."""

    connection: Connection
    served: ServedModel
    view: CatalogueView


class Recommender:
    """Answers every question about tastes; one per process, shared by its threads."""

    def __init__(self, database: Database, live: LiveModel, settings: Settings) -> None:
        self._database = database
        self._live = live
        self._scale = settings.rating
        self._means = Means(settings.rating)
        self._of_version: tuple[LoadedVersion, ServedModel] | None = None
        self._reader = database.open_reader() if database.is_sqlite else None

    def close(self) -> None:
        """Let go of the database."""
        if self._reader:
            self._reader.close()

    async def answer(self, question: Callable[Concatenate[Moment, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One of the questions below, asked where it holds nobody up.

        With SQLite and everything in memory an answer takes less time than handing it to a thread and back, so it is
        made at once, on a connection kept for that. A database server is waited for in a thread, and so is whatever
        has to be built first.
        """
        if self._reader:
            with self._reader.read() as connection:
                if moment := self._moment_at_hand(connection):
                    return question(moment, *args, **kwargs)
        return await anyio.to_thread.run_sync(partial(self.ask, question, *args, **kwargs))

    def ask(self, question: Callable[Concatenate[Moment, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One of the questions below, asked in this thread."""
        with self._database.read() as connection:
            served = self._served(connection)
            return question(Moment(connection, served, served.catalogue.view(connection)), *args, **kwargs)

    def _moment_at_hand(self, connection: Connection) -> Moment | None:
        """The moment, if nothing has to be built or waited for."""
        known = self._of_version
        if known is None or known[0] is not self._live.current:
            return None
        view = known[1].catalogue.view_at_hand(connection)
        return None if view is None else Moment(connection, known[1], view)

    def predictions(self, moment: Moment, pairs: Sequence[tuple[str, str]]) -> PredictionsOut:
        """Predicted rating, interval and source of each (user_id, item_id), in the order given."""
        served = moment.served
        users = ratings.ratings_of_users(moment.connection, {user_id for user_id, _ in pairs})
        rows = served.item_ids.rows_of([item_id for _, item_id in pairs])
        intervals: dict[int, Interval] = {}
        sources: dict[str, Source] = {}
        for user_id, places in _places_by_user(pairs).items():
            known = users.get(user_id, ratings.NO_RATINGS)
            rated = RatedItems(served.item_rows_of(known.item_keys), known.values)
            user = served.fold_in.fold_in(rated.rows, rated.values)
            intervals.update(zip(places, self._predict(served, user, rows[places]), strict=True))
            sources[user_id] = _source(served, rated, before="means")
        return PredictionsOut(
            model_version=served.version,
            trained_through=served.trained_through,
            predictions=[
                PredictionOut(user_id=user_id, item_id=item_id, source=sources[user_id], **intervals[place]._asdict())
                for place, (user_id, item_id) in enumerate(pairs)
            ],
        )

    def for_user(self, moment: Moment, user_id: str, wish: Wish) -> RecommendationsOut:
        """The best items for a user by the ratings of this moment; an unknown user gets the prior's list."""
        known = ratings.ratings_of_user(moment.connection, user_id)
        rated = RatedItems(moment.served.item_rows_of(known.item_keys), known.values)
        return self._recommend(moment, rated, wish)

    def for_ratings(self, moment: Moment, given: Sequence[tuple[str, float]], wish: Wish) -> RecommendationsOut:
        """The best items for somebody with these (item_id, value) ratings; nothing is stored."""
        latest = dict(given)
        values = np.fromiter(latest.values(), np.float64, len(latest))
        rated = RatedItems(moment.served.item_ids.rows_of(list(latest)), values)
        return self._recommend(moment, rated, wish)

    def similar(self, moment: Moment, item_id: str, n: int, categories: Sequence[str]) -> SimilarItemsOut:
        """Items whose factors point the same way; none for an item that no model has seen yet."""
        served, view = moment.served, moment.view
        row = served.item_ids.row_of(item_id)
        if row is None and not items.exists(moment.connection, item_id):
            raise items.UnknownItem(item_id)
        found, similarities = NO_ROWS, np.zeros(0, np.float32)
        if row is not None:
            found, similarities = similar_items(
                served.model, row, n, excluded=view.hidden, candidates=_candidates(moment, categories)
            )
        return SimilarItemsOut(
            model_version=served.version,
            trained_through=served.trained_through,
            item_id=item_id,
            items=[
                SimilarItem(item_id=similar_id, title=title, categories=names, similarity=similarity)
                for (similar_id, title, names), similarity in zip(
                    _described(moment, found), similarities.tolist(), strict=True
                )
            ],
        )

    def popular(self, moment: Moment, n: int, categories: Sequence[str]) -> PopularItemsOut:
        """Items with the highest Bayesian mean rating, so that one enthusiastic vote does not win."""
        served, view = moment.served, moment.view
        rows, means = popular_items(served.model, n, excluded=view.hidden, candidates=_candidates(moment, categories))
        return PopularItemsOut(
            model_version=served.version,
            trained_through=served.trained_through,
            source="popular",
            items=[
                PopularItem(item_id=item_id, title=title, categories=names, value=value, n_ratings=count)
                for (item_id, title, names), value, count in zip(
                    _described(moment, rows), means.tolist(), served.model.item_counts[rows].tolist(), strict=True
                )
            ],
        )

    def _served(self, connection: Connection) -> ServedModel:
        loaded = self._live.current
        if loaded is None:
            return self._means.served(connection)
        known = self._of_version
        if known is None or known[0] is not loaded:
            known = self._of_version = (loaded, ServedModel.of_version(loaded))
        return known[1]

    def _recommend(self, moment: Moment, rated: RatedItems, wish: Wish) -> RecommendationsOut:
        served = moment.served
        user = served.fold_in.fold_in(rated.rows, rated.values)
        rows, _ = top_n(
            served.model,
            user,
            wish.offset + wish.n,
            excluded=_unwanted(moment, rated, wish),
            candidates=_candidates(moment, wish.categories, wish.candidates),
        )
        rows = rows[wish.offset :]
        return RecommendationsOut(
            model_version=served.version,
            trained_through=served.trained_through,
            source=_source(served, rated, before="popular"),
            items=[
                RecommendedItem(item_id=item_id, title=title, categories=names, **predicted._asdict())
                for (item_id, title, names), predicted in zip(
                    _described(moment, rows), self._predict(served, user, rows), strict=True
                )
            ],
        )

    def _predict(self, served: ServedModel, user: UserSide, rows: Rows) -> list[Interval]:
        """Value and interval of each row, on the rating scale."""
        values, variances = served.fold_in.predict(user, rows)
        lower, upper = interval(values, variances, INTERVAL_LEVEL)
        on_scale = (
            np.clip(array.astype(np.float64), self._scale.min, self._scale.max).round(DECIMALS).tolist()
            for array in (values, lower, upper)
        )
        return [Interval(value, low, high) for value, low, high in zip(*on_scale, strict=True)]


def _source(served: ServedModel, rated: RatedItems, *, before: Source) -> Source:
    if served.version is None:
        return before
    return "folded_in" if rated.rows.size else "prior"


def _places_by_user(pairs: Sequence[tuple[str, str]]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, (user_id, _) in enumerate(pairs):
        places.setdefault(user_id, []).append(place)
    return places


def _unwanted(moment: Moment, rated: RatedItems, wish: Wish) -> Rows:
    """Hidden, excluded and (unless wanted) rated rows."""
    unwanted = [moment.view.hidden, _known_rows(moment, wish.exclude)]
    if not wish.include_rated:
        unwanted.append(rated.rows)
    return np.concatenate(unwanted)


def _candidates(moment: Moment, categories: Sequence[str], named: Sequence[str] | None = None) -> Rows | None:
    """Rows that the list must come from; None means all."""
    rows = None if named is None else _known_rows(moment, named)
    if not categories:
        return rows
    in_category = moment.view.rows_in(categories)
    return in_category if rows is None else np.intersect1d(rows, in_category)


def _known_rows(moment: Moment, item_ids: Sequence[str]) -> Rows:
    return moment.served.item_ids.rows_of(list(item_ids)) if item_ids else NO_ROWS


def _described(moment: Moment, rows: Rows) -> Iterable[tuple[str, str | None, list[str]]]:
    ids = moment.served.item_ids.ids_of(rows)
    return ((item_id, *moment.view.described(row)) for item_id, row in zip(ids, rows.tolist(), strict=True))


async def recommender_of(request: Request) -> Recommender:
    recommender: Recommender = request.app.state.recommender
    return recommender


RecommenderDep = Annotated[Recommender, Depends(recommender_of)]
