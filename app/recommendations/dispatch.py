"""Predicted ratings and top-N lists: read the user's ratings of this moment, fold in, score, shape."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Concatenate, NamedTuple, ParamSpec, TypeVar, get_args

import anyio.to_thread
import numpy as np
from fastapi import Depends, Request
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from app.db.connections import Reader
from app.db.engine import DATABASE_IS_AWAY, Database
from app.engine.arrays import Rows
from app.engine.fold_in.intervals import INTERVAL_LEVEL
from app.engine.fold_in.user import UserVector
from app.engine.retrieval.brute_force import best_rows
from app.engine.retrieval.retriever import Query
from app.engine.retrieval.similarity import common_direction
from app.errors import BadInput, FieldError
from app.items import store as items
from app.metrics.instruments import TOP_N_SECONDS, USERS_ANSWERED
from app.ratings import store as ratings
from app.ratings.user_ratings import Looks, NotLookedAt
from app.recommendations.context import NO_ROWS, Moment, RatedItems, TooLongForTheLoop
from app.recommendations.cursor import Cursor, PagesGone, first_page, page_after
from app.recommendations.explanations import explanations
from app.recommendations.popular import Popularity, RecentPopularity
from app.recommendations.response_json import items_json, numbers_json, object_json
from app.recommendations.schemas import Filter, PredictionOut, PredictionsOut, Source, Wish
from app.recommendations.serving_model import Means, ServedModel
from app.recommendations.user_cache import KeptTastes, Taste
from app.registry import artifacts, versions
from app.registry.artifacts import LoadedVersion
from app.registry.live import LiveModel
from app.settings import RatingScale, Settings

P = ParamSpec("P")
T = TypeVar("T")

USERS_AT_ONCE = 64
"""Users of a batch who are answered together."""
MAX_EARLIER = 2
"""Versions that do not answer any more but are kept loaded for later pages."""
DECIMALS = 4  # of predicted ratings in answers; lists are ordered by the exact numbers

_ANSWERED_FROM = {source: USERS_ANSWERED.labels(source) for source in get_args(Source)}
_KEPT = USERS_ANSWERED.labels("kept")


class Intervals(NamedTuple):
    """Predicted ratings and the ends of their intervals, on the rating scale."""

    value: list[float]
    lower: list[float]
    upper: list[float]


class UserList(NamedTuple):
    """A user, and the best rows for them."""

    user_id: str
    user: UserVector
    rated: RatedItems
    rows: Rows


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
        self._looks = None if database.is_sqlite else Looks(database)
        self._tastes = KeptTastes(settings.kept_tastes)
        self._recent = RecentPopularity()
        self._versions_dir = settings.versions_dir
        self._earlier_versions: tuple[ServedModel, ...] = ()  # for later pages of lists that began with them

    def close(self) -> None:
        """Let go of the database."""
        if self._reader:
            self._reader.close()

    async def list_for_user(self, user_id: str, wish: Wish) -> bytes:
        """The best items for a user by the ratings of this moment, as `RecommendationsOut`."""
        unchanged = self._unchanged_list(user_id, wish)
        if unchanged is not None:
            _KEPT.inc()
            return unchanged
        if self._looks and (moment := await self._moment_looked_at(self._looks, user_id)):
            with contextlib.suppress(TooLongForTheLoop, NotLookedAt):
                return self.for_user(moment, user_id, wish)
        return await self.answer(self.for_user, user_id, wish)

    def _unchanged_list(self, user_id: str, wish: Wish) -> bytes | None:
        """The list that was given last, if nothing at all has been committed since."""
        if self._reader is None or (taste := self._tastes.of(user_id, self._known(self._live.current))) is None:
            return None
        lists = taste.lists
        if lists is None or lists.changes is None or lists.changes != self._reader.changes():
            return None
        return lists.answers.get(wish)

    async def answer(self, question: Callable[Concatenate[Moment, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One of the questions below, asked where it holds nobody up.

        With SQLite and everything in memory an answer takes less time than handing it to a thread and back, so it is
        made at once, on a connection kept for that. A database server is waited for in a thread, and so is whatever
        has to be built first, and whatever is large.
        """
        if self._reader:
            try:
                if moment := self._moment_at_hand(self._reader):
                    return question(moment, *args, **kwargs)
            except TooLongForTheLoop:
                pass
            finally:
                self._reader.end()
        return await anyio.to_thread.run_sync(partial(self.ask, question, *args, **kwargs))

    def ask(self, question: Callable[Concatenate[Moment, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One of the questions below, asked in this thread; from memory alone while the database is away."""
        try:
            with self._database.read() as connection:
                served = self._served(connection)
                return question(Moment(connection, served, served.catalogue.view(connection)), *args, **kwargs)
        except DATABASE_IS_AWAY as away:
            moment = self._moment_in_memory(away)
        return question(moment, *args, **kwargs)

    def _moment_in_memory(self, away: DBAPIError) -> Moment:
        """The last moment that is known; raises what it is given where nothing is."""
        served = self._known(self._live.current)
        if served is None or served.catalogue.last_view is None:
            raise away
        return Moment(away, served, served.catalogue.last_view)

    def _moment_at_hand(self, reader: Reader) -> Moment | None:
        """The moment, if nothing has to be built or waited for."""
        served = self._known(self._live.current)
        if served is None:
            return None
        changes = reader.changes()  # before anything else is read: what is committed from now on shows the next time
        view = served.catalogue.view_at_hand(reader.connection, changes)
        return Moment(reader.connection, served, view, changes, True) if view else None

    async def _moment_looked_at(self, looks: Looks, user_id: str) -> Moment | None:
        """The moment of one user's question to a server, if nothing else has to be read or built."""
        served = self._known(self._live.current)
        if served is None:
            return None
        kept = self._tastes.of(user_id, served)
        try:
            look = await looks.at(user_id, kept.state if kept else None)
        except DATABASE_IS_AWAY:
            return None  # asked again in a thread, where the answer is made from memory if it can be
        view = served.catalogue.last_view
        if view is None or view.revision < look.items_revision:
            return None
        return Moment(TooLongForTheLoop(), served, view, None, True, look)

    def predictions(
        self, moment: Moment, pairs: Sequence[tuple[str, str]], level: float = INTERVAL_LEVEL
    ) -> PredictionsOut:
        """Predicted rating, interval and source of each (user_id, item_id), in the order given."""
        served = moment.served
        moment.expect(n_named=len(pairs))
        users = ratings.ratings_of_users(moment.connection, {user_id for user_id, _ in pairs})
        rows = served.item_ids.rows_of([item_id for _, item_id in pairs])
        moment.expect(n_named=sum(known.values.size for known in users.values()))
        found: dict[int, PredictionOut] = {}
        for user_id, places in _places_by_user(pairs).items():
            rated = _rated_items(served, users.get(user_id, ratings.NO_RATINGS))
            source = moment.source_of(rated, before="means")
            _ANSWERED_FROM[source].inc()
            predicted = self.predict(served, moment.user_of(rated), rows[places], level)
            for place, value, lower, upper in zip(places, *predicted, strict=True):
                found[place] = PredictionOut(
                    user_id=user_id, item_id=pairs[place][1], source=source, value=value, lower=lower, upper=upper
                )
        return PredictionsOut(
            model_version=served.version,
            trained_through=served.trained_through,
            level=level,
            predictions=[found[place] for place in range(len(pairs))],
        )

    def for_user(self, moment: Moment, user_id: str, wish: Wish) -> bytes:
        """The best items for a user by the ratings of this moment; an unknown user gets the prior's list.

        A later page is made with the model and the vector of the first.
        """
        cursor = Cursor.decoded(wish.cursor, wish) if wish.cursor else None
        moment = self._moment_for(moment, cursor)
        moment.expect_list(wish, cursor.n_before if cursor else wish.offset)
        taste = self._taste(moment, user_id)
        moment.expect_list(wish, n_named=taste.rated.rows.size)
        lists = taste.lists_at(moment.view, moment.changes)
        answer = lists.get(wish)
        if answer is not None:
            _KEPT.inc()
        else:
            answer = lists[wish] = self._listed(moment, taste.user, taste.rated, wish, cursor)
        return answer

    def for_users(self, moment: Moment, user_ids: Sequence[str], wish: Wish) -> list[bytes]:
        """A list of each user, in the order given; who is unknown gets the prior's."""
        return [
            self._told(moment, list_.user, list_.rated, wish, list_.rows, {"user_id": list_.user_id})
            for list_ in self.lists_of(moment, user_ids, wish)
        ]

    async def lines(self, user_ids: Sequence[str], wish: Wish) -> AsyncIterator[bytes]:
        """`for_users`, a group at a time, each line ended."""
        for first in range(0, len(user_ids), USERS_AT_ONCE):
            some = user_ids[first : first + USERS_AT_ONCE]
            lines = await anyio.to_thread.run_sync(self.ask, self.for_users, some, wish)
            yield b"".join(line + b"\n" for line in lines)

    def lists_of(self, moment: Moment, user_ids: Sequence[str], wish: Wish) -> list[UserList]:
        """The best items for each of the users, who share the reading of ratings and the scan of the items."""
        known = ratings.ratings_of_users(moment.connection, set(user_ids))
        rated = [_rated_items(moment.served, known.get(user_id, ratings.NO_RATINGS)) for user_id in user_ids]
        users = list(map(moment.user_of, rated))
        found = moment.best_for_each(users, rated, wish, wish.n)
        return list(map(UserList, user_ids, users, rated, (rows for rows, _ in found)))

    def _moment_for(self, moment: Moment, cursor: Cursor | None) -> Moment:
        """The moment of the version that the cursor is of; raises PagesGone where it is not kept any more."""
        if cursor is None or cursor.version == moment.served.version:
            return moment
        if moment.is_on_loop:
            raise TooLongForTheLoop
        served = self._earlier(moment.connection, cursor.version)
        return replace(moment, served=served, view=served.catalogue.view(moment.connection), changes=None)

    def _earlier(self, connection: Connection, version: int) -> ServedModel:
        for served in (*(served for _, served in self._versions), *self._earlier_versions):
            if served.version == version:
                return served
        try:
            row = versions.get(connection, version)
        except versions.UnknownVersion:
            raise PagesGone(version) from None
        served = ServedModel.of_version(artifacts.load(self._versions_dir / row.folder, row.version, row.manifest))
        self._earlier_versions = (served, *self._earlier_versions[: MAX_EARLIER - 1])
        return served

    def _taste(self, moment: Moment, user_id: str) -> Taste:
        """The user's taste of this moment: the kept one where the ratings are still the same, else made anew."""
        kept = self._tastes.of(user_id, moment.served)
        if kept is not None:
            is_of_now = moment.changes is not None and kept.lists is not None and kept.lists.changes == moment.changes
            if is_of_now or moment.state_of_user(user_id) == kept.state:
                return kept
        known = moment.ratings_of_user(user_id)
        moment.expect(n_named=known.values.size)
        rated = _rated_items(moment.served, known)
        taste = Taste(moment.served, known.state, rated, moment.user_of(rated))
        if any(moment.served is served for _, served in self._versions):  # without a version every rating changes all
            self._tastes.keep(user_id, taste)
        return taste

    def for_ratings(self, moment: Moment, given: Sequence[tuple[str, float]], wish: Wish) -> bytes:
        """The best items for somebody with these (item_id, value) ratings; nothing is stored."""
        cursor = Cursor.decoded(wish.cursor, wish) if wish.cursor else None
        moment = self._moment_for(moment, cursor)
        moment.expect_list(wish, cursor.n_before if cursor else wish.offset, n_named=len(given))
        _refuse_off_scale(given, self._scale)
        latest = dict(given)
        values = np.fromiter(latest.values(), np.float64, len(latest))
        rated = RatedItems(moment.rows_of(list(latest)), values)
        return self._listed(moment, moment.user_of(rated), rated, wish, cursor)

    def similar(self, moment: Moment, item_id: str, n: int, wanted: Filter) -> bytes:
        """Items whose factors point the same way; none for an item that no model has seen yet."""
        return self._alike(moment, [item_id], n, wanted, item_id=item_id)

    def similar_to_several(self, moment: Moment, item_ids: Sequence[str], n: int, wanted: Filter) -> bytes:
        """Items by their mean cosine with these; those that no model has seen yet are passed over."""
        return self._alike(moment, item_ids, n, wanted, item_ids=list(item_ids))

    def _alike(self, moment: Moment, seed_ids: Sequence[str], n: int, wanted: Filter, **asked: object) -> bytes:
        moment.expect(n_listed=n)
        served, seeds = moment.served, moment.rows_of(seed_ids)
        for place in np.flatnonzero(seeds < 0).tolist():
            if not items.exists(moment.connection, seed_ids[place]):
                raise items.UnknownItem(seed_ids[place])
        direction, length = common_direction(served.model, seeds)
        query = Query(direction, excluded=seeds)
        rows, cosines = NO_ROWS, np.zeros(0, np.float32)
        if length > 0:
            [(rows, cosines)] = served.retriever.search([query], n, among=moment.among(wanted), cosine=True)
        return object_json(
            items_json(moment.texts_of(rows), similarity=numbers_json((cosines * np.float32(length)).tolist())),
            model_version=served.version,
            trained_through=served.trained_through,
            source="means" if served.version is None else "item_vectors",
            **asked,
        )

    def popular(self, moment: Moment, n: int, wanted: Filter, days: int | None = None) -> bytes:
        """Items with the highest Bayesian mean rating, so that one enthusiastic vote does not win."""
        moment.expect(n_listed=n)
        if days is not None and moment.is_on_loop:
            raise TooLongForTheLoop
        served = moment.served
        liked = Popularity.of(served) if days is None else self._recent.of(moment.connection, served, days)
        among = moment.view.among(replace(wanted, min_ratings=0), liked.counts)
        scores = np.where(liked.counts >= wanted.min_ratings, liked.means, np.nan).astype(np.float32)
        rows, means = best_rows(scores, n, candidates=None if among is None else among.rows())
        return object_json(
            items_json(
                moment.texts_of(rows),
                value=numbers_json(means.tolist()),
                n_ratings=numbers_json(liked.counts[rows].tolist()),
            ),
            model_version=served.version,
            trained_through=served.trained_through,
            source="popular",
            shrinkage=round(liked.shrinkage, DECIMALS),
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
        for known, served in self._versions:
            if known is loaded:
                return served
        return None

    def prepare(self, loaded: LoadedVersion) -> None:
        """Build what answers of this version need before it becomes the current one, which answers meanwhile."""
        served = ServedModel.of_version(loaded)
        with self._database.read() as connection:
            served.catalogue.view(connection)
        current = [each for each in self._versions if each[0] is self._live.current]
        self._versions = (*current, (loaded, served))

    def _listed(self, moment: Moment, user: UserVector, rated: RatedItems, wish: Wish, cursor: Cursor | None) -> bytes:
        source = moment.source_of(rated, before="popular")
        with TOP_N_SECONDS.time():
            if cursor is None:
                page = first_page(moment, user, rated, wish, source)
            else:
                source, user = cursor.source, replace(user, bias=cursor.bias, factors=cursor.factors)
                page = page_after(moment, cursor, user, rated, wish)
        _ANSWERED_FROM[source].inc()
        return self._told(moment, user, rated, wish, page.rows, {"source": source, "next_cursor": page.next_cursor})

    def _told(
        self, moment: Moment, user: UserVector, rated: RatedItems, wish: Wish, rows: Rows, more: Mapping[str, object]
    ) -> bytes:
        """A list as JSON; `more` are fields of the answer besides, or instead."""
        served = moment.served
        predicted = self.predict(served, user, rows, wish.level)
        columns = dict(zip(Intervals._fields, map(numbers_json, predicted), strict=True))
        facts: dict[str, object] = {
            "model_version": served.version,
            "trained_through": served.trained_through,
            "level": wish.level,
            "source": moment.source_of(rated, before="popular"),
        }
        if wish.n_reasons is not None:
            columns["explanation"] = explanations(moment, user, rated, rows, wish.n_reasons, DECIMALS)
            facts["explained"] = "exactly" if served.model.loss.is_squared else "linearised"
        return object_json(items_json(moment.texts_of(rows), **columns), **{**facts, **more})

    def predict(self, served: ServedModel, user: UserVector, rows: Rows, level: float = INTERVAL_LEVEL) -> Intervals:
        """Value and interval of each row, on the rating scale."""
        told = served.fold_in.with_intervals(user, rows, level)
        np.minimum(np.maximum(told, self._scale.min, out=told), self._scale.max, out=told)
        return Intervals(*told.round(DECIMALS).tolist())


def _rated_items(served: ServedModel, known: ratings.UserRatings) -> RatedItems:
    return RatedItems(served.item_rows_of(known.item_keys), known.values, served.trained_row_of(known))


def _refuse_off_scale(given: Sequence[tuple[str, float]], scale: RatingScale) -> None:
    errors = [
        FieldError(field=f"ratings[{place}].value", message=complaint)
        for place, (_, value) in enumerate(given)
        if (complaint := scale.complaint(value))
    ]
    if errors:
        raise BadInput(f"{errors[0].field}: {errors[0].message}", errors)


def _places_by_user(pairs: Sequence[tuple[str, str]]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, (user_id, _) in enumerate(pairs):
        places.setdefault(user_id, []).append(place)
    return places


async def recommender_of(request: Request) -> Recommender:
    recommender: Recommender = request.app.state.recommender
    return recommender


RecommenderDep = Annotated[Recommender, Depends(recommender_of)]
