"""Predicted ratings and top-N lists: read the user's ratings of this moment, fold in, score, shape."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Concatenate, NamedTuple, ParamSpec, TypeVar, get_args

import anyio.to_thread
import numpy as np
import numpy.typing as npt
from fastapi import Depends, Request
from sqlalchemy import Connection

from app.database import Database
from app.engine.arrays import Rows
from app.engine.fold_in import INTERVAL_LEVEL, UserSide
from app.engine.top_n import best_rows, similar_items, top_n
from app.errors import BadInput, FieldError
from app.items import store as items
from app.metrics.instruments import TOP_N_SECONDS, USERS_ANSWERED
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
from app.settings import RatingScale, Settings

P = ParamSpec("P")
T = TypeVar("T")

DECIMALS = 4  # of predicted ratings in answers; lists are ordered by the exact numbers

# What an answer on the event loop may take: about a millisecond each.
MAX_LISTED_AT_ONCE = 100
MAX_PASSED_OVER_AT_ONCE = 1_000
MAX_NAMED_AT_ONCE = 1_000
MAX_PRODUCTS_AT_ONCE = 4_000_000

NO_ROWS = np.zeros(0, np.int32)

_ANSWERED_FROM = {source: USERS_ANSWERED.labels(source) for source in get_args(Source)}


class TooLongForTheLoop(Exception):
    """Answering would hold up every other request; ask again in a thread."""


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
    trained_row: int | None = None
    """The model's row of the user, where these are the ratings that it learned."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What a question is answered from: one model, its items, and a connection for what is not in memory."""

    connection: Connection
    served: ServedModel
    view: CatalogueView
    is_on_loop: bool = False

    def expect(self, *, n_listed: int = 0, n_passed_over: int = 0, n_named: int = 0) -> None:
        """Raises TooLongForTheLoop where so much work does not belong on the event loop.

        n_listed: items of the answer; n_passed_over: better ones left out; n_named: ratings and items given.
        """
        if self.is_on_loop and (
            n_listed > MAX_LISTED_AT_ONCE
            or n_passed_over > MAX_PASSED_OVER_AT_ONCE
            or n_named > MAX_NAMED_AT_ONCE
            or self.served.model.item_factors.size > MAX_PRODUCTS_AT_ONCE
        ):
            raise TooLongForTheLoop


class Recommender:
    """Answers every question about tastes; one per process, shared by its threads."""

    def __init__(self, database: Database, live: LiveModel, settings: Settings) -> None:
        self._database = database
        self._live = live
        self._scale = settings.rating
        self._means = Means(settings.rating)
        self._versions: tuple[tuple[LoadedVersion, ServedModel], ...] = ()  # the current one, and perhaps the next
        live.before_swap = self.prepare
        self._reader = database.open_reader() if database.is_sqlite else None

    def close(self) -> None:
        """Let go of the database."""
        if self._reader:
            self._reader.close()

    async def answer(self, question: Callable[Concatenate[Moment, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One of the questions below, asked where it holds nobody up.

        With SQLite and everything in memory an answer takes less time than handing it to a thread and back, so it is
        made at once, on a connection kept for that. A database server is waited for in a thread, and so is whatever
        has to be built first, and whatever is large.
        """
        if self._reader:
            with self._reader.read() as connection, contextlib.suppress(TooLongForTheLoop):
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
        served = self._known(self._live.current)
        view = served and served.catalogue.view_at_hand(connection)
        return Moment(connection, served, view, is_on_loop=True) if served and view else None

    def predictions(self, moment: Moment, pairs: Sequence[tuple[str, str]]) -> PredictionsOut:
        """Predicted rating, interval and source of each (user_id, item_id), in the order given."""
        served = moment.served
        moment.expect(n_named=len(pairs))
        users = ratings.ratings_of_users(moment.connection, {user_id for user_id, _ in pairs})
        rows = served.item_ids.rows_of([item_id for _, item_id in pairs])
        intervals: dict[int, Interval] = {}
        moment.expect(n_named=sum(known.values.size for known in users.values()))
        sources: dict[str, Source] = {}
        for user_id, places in _places_by_user(pairs).items():
            known = users.get(user_id, ratings.NO_RATINGS)
            rated = RatedItems(served.item_rows_of(known.item_keys), known.values, served.trained_row_of(known))
            intervals.update(zip(places, self._predict(served, _user_of(served, rated), rows[places]), strict=True))
            sources[user_id] = source = _source(served, rated, before="means")
            _ANSWERED_FROM[source].inc()
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
        moment.expect(n_listed=wish.n, n_passed_over=wish.offset, n_named=len(wish.exclude))
        known = ratings.ratings_of_user(moment.connection, user_id)
        moment.expect(n_named=known.values.size)
        served = moment.served
        rated = RatedItems(served.item_rows_of(known.item_keys), known.values, served.trained_row_of(known))
        return self._recommend(moment, rated, wish)

    def for_ratings(self, moment: Moment, given: Sequence[tuple[str, float]], wish: Wish) -> RecommendationsOut:
        """The best items for somebody with these (item_id, value) ratings; nothing is stored."""
        n_named = len(given) + len(wish.exclude) + len(wish.candidates or ())
        moment.expect(n_listed=wish.n, n_passed_over=wish.offset, n_named=n_named)
        _refuse_off_scale(given, self._scale)
        latest = dict(given)
        values = np.fromiter(latest.values(), np.float64, len(latest))
        rated = RatedItems(moment.served.item_ids.rows_of(list(latest)), values)
        return self._recommend(moment, rated, wish)

    def similar(self, moment: Moment, item_id: str, n: int, categories: Sequence[str]) -> SimilarItemsOut:
        """Items whose factors point the same way; none for an item that no model has seen yet."""
        moment.expect(n_listed=n)
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
            source="means" if served.version is None else "item_vectors",
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
        moment.expect(n_listed=n)
        served, view = moment.served, moment.view
        rows, means = best_rows(served.popularity, n, excluded=view.hidden, candidates=_candidates(moment, categories))
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
        served = self._known(loaded)
        if served is None:
            served = ServedModel.of_version(loaded)
            self._versions = ((loaded, served),)
        return served

    def _known(self, loaded: LoadedVersion | None) -> ServedModel | None:
        return next((served for known, served in self._versions if known is loaded), None)

    def prepare(self, loaded: LoadedVersion) -> None:
        """Build what answers of this version need before it becomes the current one, which answers meanwhile."""
        served = ServedModel.of_version(loaded)
        with self._database.read() as connection:
            served.catalogue.view(connection)
        current = [each for each in self._versions if each[0] is self._live.current]
        self._versions = (*current, (loaded, served))

    def _recommend(self, moment: Moment, rated: RatedItems, wish: Wish) -> RecommendationsOut:
        served = moment.served
        user = _user_of(served, rated)
        source = _source(served, rated, before="popular")
        with TOP_N_SECONDS.time():
            rows, _ = top_n(
                served.model,
                user,
                wish.offset + wish.n,
                excluded=_unwanted(moment, rated, wish),
                candidates=_candidates(moment, wish.categories, wish.candidates),
            )
        rows = rows[wish.offset :]
        _ANSWERED_FROM[source].inc()
        return RecommendationsOut(
            model_version=served.version,
            trained_through=served.trained_through,
            source=source,
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
        lower, upper = served.fold_in.interval(user, rows, values, variances, INTERVAL_LEVEL)
        on_scale = (
            np.clip(array.astype(np.float64), self._scale.min, self._scale.max).round(DECIMALS).tolist()
            for array in (values, lower, upper)
        )
        return [Interval(value, low, high) for value, low, high in zip(*on_scale, strict=True)]


def _refuse_off_scale(given: Sequence[tuple[str, float]], scale: RatingScale) -> None:
    errors = [
        FieldError(field=f"ratings[{place}].value", message=complaint)
        for place, (_, value) in enumerate(given)
        if (complaint := scale.complaint(value))
    ]
    if errors:
        raise BadInput(f"{errors[0].field}: {errors[0].message}", errors)


def _user_of(served: ServedModel, rated: RatedItems) -> UserSide:
    """By the trained vector where the ratings are those of the training and it is the better one; else folded in."""
    if rated.trained_row is not None:
        return served.fold_in.trained(rated.trained_row, rated.rows, rated.values)
    return served.fold_in.fold_in(rated.rows, rated.values)


def _source(served: ServedModel, rated: RatedItems, *, before: Source) -> Source:
    if served.version is None:
        return before
    if rated.trained_row is not None:
        return "trained"
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
