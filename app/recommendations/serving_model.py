"""The model that answers requests: the active version, or damped means before the first version."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, func, select

from app.db.engine import Database
from app.db.revisions import revision
from app.engine.arrays import Rows, Vector32
from app.engine.data.ratings import Vocabulary
from app.engine.factors import FactorModel, UserPrior
from app.engine.fold_in.fold_in import FoldIn
from app.engine.fold_in.user import UserVector
from app.engine.retrieval.brute_force import BruteForceRetriever, bayesian_means
from app.engine.retrieval.retriever import NO_ROWS, Retriever
from app.errors import Conflict
from app.items.models import Item
from app.ratings.models import Rating
from app.ratings.user_ratings import UserRatings
from app.recommendations.catalog import Catalog, Keys
from app.recommendations.schemas import Source
from app.registry import artifacts, versions
from app.registry.artifacts import LoadedVersion, look_up, rows_by_key
from app.registry.live import LiveModel
from app.settings import RatingScale, Settings

DAMPING = 5.0  # ratings that the overall mean weighs against an item's or a user's own (Funk 2006; LensKit's default)
SHARE_OF_TIME = 0.05  # largest share of a process's time that recomputing means may take
MAX_EARLIER = 2
"""Earlier versions that stay loaded for later pages of lists."""
DECIMALS = 4  # of predicted ratings in answers; lists are ordered by the exact numbers


class VersionGone(Conflict):
    """A later page was requested of a list whose version no longer exists."""

    def __init__(self, version: int) -> None:
        super().__init__(f"this list was made by model version {version}, which no longer exists; omit the cursor")
        self.version = version


class Intervals(NamedTuple):
    """Predicted ratings and the ends of their intervals, clipped to the rating scale."""

    value: list[float]
    lower: list[float]
    upper: list[float]


@dataclass(frozen=True, slots=True)
class ModelUser:
    """A user in one serving model: rated items as rows, -1 for those that it does not know, and the user's vector."""

    rated_rows: Rows
    values: npt.NDArray[np.float64]
    vector: UserVector
    source: Source
    """"means" before the first version."""


@dataclass(frozen=True, slots=True)
class ServingModel:
    """A model, the catalog of its items, and the mapping between its rows and ids."""

    version: int | None
    trained_through: int
    model: FactorModel
    fold_in: FoldIn
    retriever: Retriever
    item_ids: Vocabulary
    item_keys: Keys
    item_rows_of: Callable[[Keys], Rows]
    catalog: Catalog
    popularity: Vector32
    scale: RatingScale
    user_row_of: Callable[[int], int | None] = lambda _user_key: None

    @classmethod
    def of_version(cls, loaded: LoadedVersion, scale: RatingScale) -> ServingModel:
        return cls(
            loaded.version,
            loaded.trained_through,
            loaded.model,
            loaded.fold_in,
            loaded.retriever,
            loaded.item_ids,
            loaded.item_keys,
            loaded.item_rows_of,
            Catalog(loaded.item_keys, loaded.item_ids.ids_of, loaded.item_rows_of),
            bayesian_means(loaded.model),
            scale,
            loaded.user_row_of,
        )

    def rows_of(self, item_ids: Sequence[str]) -> Rows:
        """Rows of these items, -1 for those that the model does not know."""
        return self.item_ids.rows_of(list(item_ids)) if item_ids else NO_ROWS

    def user_of(self, ratings: UserRatings) -> ModelUser:
        """The user with these ratings: the trained vector where that is the better one, else the folded-in one.

        It is better if the model is an average (see `app.engine.bayes`) trained on exactly these ratings: none is newer
        than the version, and there are as many as it was trained on, so none was deleted either.
        """
        row, values = None, ratings.values
        if self.model.posterior is not None and ratings.user_key is not None and values.size:
            row = self.user_row_of(ratings.user_key)
        user = self.fold_in_user(self.item_rows_of(ratings.item_keys), values)
        if row is None or self.model.user_counts[row] != values.size or ratings.newest > self.trained_through:
            return user
        return replace(user, vector=self.fold_in.trained(row, user.vector), source="trained")

    def fold_in_user(self, rated_rows: Rows, values: npt.NDArray[np.float64]) -> ModelUser:
        """The user with these ratings, folded in; -1 for items that the model does not know."""
        vector = self.fold_in.solve(rated_rows, values.astype(np.float32))
        source: Source = "means" if self.version is None else "folded_in" if rated_rows.size else "prior"
        return ModelUser(rated_rows, values, vector, source)

    def predict(self, vector: UserVector, rows: Rows, level: float) -> Intervals:
        """Value and interval of each row, on the rating scale."""
        predicted = self.fold_in.with_intervals(vector, rows, level)
        np.minimum(np.maximum(predicted, self.scale.min, out=predicted), self.scale.max, out=predicted)
        return Intervals(*predicted.round(DECIMALS).tolist())


class ServingModels:
    """The serving models of one process: the active version, the next one while it is prepared, and earlier ones."""

    def __init__(self, database: Database, live: LiveModel, settings: Settings) -> None:
        self._database = database
        self._live = live
        self._scale = settings.rating
        self._versions_dir = settings.versions_dir
        self._means = _Means(settings.rating)
        self._prepared: tuple[tuple[LoadedVersion, ServingModel], ...] = ()  # the active version, and perhaps the next
        self._earlier: tuple[ServingModel, ...] = ()
        live.before_swap = self.prepare

    def prepared(self) -> ServingModel | None:
        """The active version if it is ready to answer; None before the first one."""
        active = self._live.current
        for loaded, model in self._prepared:
            if loaded is active:
                return model
        return None

    def active(self, connection: Connection) -> ServingModel:
        """The active version, or the means before the first one; built if it is not ready yet."""
        loaded = self._live.current
        if loaded is None:
            return self._means.current(connection)
        model = self.prepared()
        if model is None:
            model = ServingModel.of_version(loaded, self._scale)
            self._prepared = ((loaded, model),)
        return model

    def prepare(self, loaded: LoadedVersion) -> None:
        """Build what answers of this version need before it becomes the active one; the old one answers meanwhile."""
        model = ServingModel.of_version(loaded, self._scale)
        with self._database.read() as connection:
            model.catalog.view(connection)
        active = [each for each in self._prepared if each[0] is self._live.current]
        self._prepared = (*active, (loaded, model))

    def of_version(self, connection: Connection, version: int) -> ServingModel:
        """The model of any version that still exists; raises VersionGone."""
        for model in (*(prepared for _, prepared in self._prepared), *self._earlier):
            if model.version == version:
                return model
        try:
            row = versions.get(connection, version)
        except versions.UnknownVersion:
            raise VersionGone(version) from None
        loaded = artifacts.load(self._versions_dir / row.folder, row.version, row.manifest)
        model = ServingModel.of_version(loaded, self._scale)
        self._earlier = (model, *self._earlier[: MAX_EARLIER - 1])
        return model


class _Means:
    """Damped item means as a model without factors, so that requests before and after training take one path.

    Recomputed when ratings have changed, but for at most a twentieth of the time: with many millions of ratings and no
    model yet, the means may lag behind. A user's own ratings never do.
    """

    def __init__(self, scale: RatingScale) -> None:
        self._scale = scale
        self._lock = threading.Lock()
        self._model: ServingModel | None = None
        self._not_before = 0.0

    def current(self, connection: Connection) -> ServingModel:
        """The means as of now, or a little older if computing them takes long."""
        newest = revision(connection, "ratings")
        with self._lock:
            if self._model is None or (self._model.trained_through != newest and time.monotonic() >= self._not_before):
                started = time.monotonic()
                self._model = _means_model(connection, newest, self._scale)
                finished = time.monotonic()
                self._not_before = finished + (finished - started) / SHARE_OF_TIME
            return self._model


def _means_model(connection: Connection, newest: int, scale: RatingScale) -> ServingModel:
    by_item = connection.execute(
        select(Item.item_id, Item.item_key, func.count(), func.sum(Rating.value), func.sum(Rating.value * Rating.value))
        .join(Rating, Rating.item_key == Item.item_key)
        .group_by(Item.item_id, Item.item_key)
    ).all()
    vocabulary = Vocabulary.of([row[0] for row in by_item])
    order = vocabulary.rows_of([row[0] for row in by_item])
    keys, counts, sums, squares = (np.zeros(len(by_item), dtype) for dtype in (np.int64, np.int32, float, float))
    for column, array in enumerate((keys, counts, sums, squares), start=1):
        array[order] = [row[column] for row in by_item]
    return ServingModel(
        version=None,
        trained_through=newest,
        model=(model := _bias_model(counts, sums, float(squares.sum()), scale)),
        fold_in=FoldIn(model),
        retriever=BruteForceRetriever(model),
        item_ids=vocabulary,
        item_keys=keys,
        item_rows_of=(item_rows_of := partial(look_up, rows_by_key(keys))),
        catalog=Catalog(keys, vocabulary.ids_of, item_rows_of),
        popularity=bayesian_means(model),
        scale=scale,
    )


def _bias_model(
    counts: npt.NDArray[np.int32], sums: npt.NDArray[np.float64], square_sum: float, scale: RatingScale
) -> FactorModel:
    """r_hat = mu + b_i + b_u with damped biases: b = sum of residuals / (count + DAMPING). No factors, k = 1."""
    n = int(counts.sum())
    mean = float(sums.sum()) / n if n else (scale.min + scale.max) / 2
    spread = max(square_sum / n - mean**2, 1e-3) if n else ((scale.max - scale.min) / 4) ** 2
    n_items = counts.size
    # With noise variance s2 and prior variance s2 / DAMPING, the fold-in's posterior mean is the damped mean.
    covariance = np.diag([spread / DAMPING, 1e-9])
    return FactorModel(
        mean=mean,
        item_bias=((sums - counts * mean) / (counts + DAMPING)).astype(np.float32),
        item_factors=np.zeros((n_items, 1), np.float32),
        user_bias=np.zeros(0, np.float32),
        user_factors=np.zeros((0, 1), np.float32),
        user_prior=UserPrior(np.zeros(2), covariance),
        noise_variance=spread,
        item_counts=counts,
        item_means=(sums / np.maximum(counts, 1)).astype(np.float32),
        user_counts=np.zeros(0, np.int32),
        popularity_shrinkage=DAMPING,
    )
