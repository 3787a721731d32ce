"""A model that answers requests: the vectors of its users, predictions, and the users that are cached for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.db.connections import DataVersion
from app.engine.arrays import Rows, Vector32
from app.engine.data.id_search import look_up
from app.engine.data.ratings import Vocabulary
from app.engine.factors import FactorModel
from app.engine.fold_in.fold_in import FoldIn
from app.engine.fold_in.user import UserVector
from app.engine.retrieval.brute_force import bayesian_means
from app.engine.retrieval.retriever import NO_ROWS, Retriever
from app.ratings.user_ratings import RatingsState, UserRatings
from app.recommendations.catalog import Catalog, CatalogView
from app.recommendations.schemas import ListRequest, Source
from app.registry.artifacts import Keys
from app.settings import RatingScale

DECIMALS = 4  # of predicted ratings in answers; lists are ordered by the exact numbers


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


@dataclass(slots=True, eq=False)
class ServingModel:
    """A model, the catalog of its items, and the mapping between its rows and ids."""

    version: int | None
    trained_through: int
    model: FactorModel
    fold_in: FoldIn
    retriever: Retriever
    item_ids: Vocabulary
    item_keys: Keys
    item_row_of_key: Rows
    user_row_of_key: Rows
    scale: RatingScale
    catalog: Catalog = field(init=False)
    popularity: Vector32 = field(init=False)

    def __post_init__(self) -> None:
        self.catalog = Catalog(self.item_keys, self.item_ids, self.item_row_of_key)
        self.popularity = bayesian_means(self.model)

    def rows_of(self, item_ids: Sequence[str]) -> Rows:
        """Rows of these items, -1 for those that the model does not know."""
        return self.item_ids.rows_of(item_ids) if item_ids else NO_ROWS

    def user_of(self, ratings: UserRatings, rated_rows: Rows | None = None) -> ModelUser:
        """The user with these ratings: the trained vector where that is the better one, else the folded-in one.

        It is better if the model is an average (see `app.engine.bayes`) trained on exactly these ratings: none is newer
        than the version, and there are as many as it was trained on, so none was deleted either. The covariance and the
        noise are of folding in.

        rated_rows: the rated items, -1 for those that the model does not know; by default those of the item keys
        """
        rows = look_up(self.item_row_of_key, ratings.item_keys) if rated_rows is None else rated_rows
        vector = self.fold_in.solve(rows, ratings.values.astype(np.float32))
        source: Source = "means" if self.version is None else "folded_in" if rows.size else "prior"
        user_key, n_ratings, newest = ratings.state
        if user_key is not None and n_ratings and newest <= self.trained_through and self.model.posterior is not None:
            user_row = self.user_row_of_key[user_key] if user_key < self.user_row_of_key.size else -1
            if user_row >= 0 and self.model.user_counts[user_row] == n_ratings:
                bias, factors = float(self.model.user_bias[user_row]), self.model.user_factors[user_row]
                vector, source = replace(vector, bias=bias, factors=factors), "trained"
        return ModelUser(rows, ratings.values, vector, source)

    def predict(self, vector: UserVector, rows: Rows, level: float) -> Intervals:
        """Value and interval of each row, on the rating scale."""
        predicted = self.fold_in.with_intervals(vector, rows, level)
        np.minimum(np.maximum(predicted, self.scale.min, out=predicted), self.scale.max, out=predicted)
        return Intervals(*predicted.round(DECIMALS).tolist())


@dataclass(slots=True)
class CachedUser:
    """A user in one serving model, and the lists made of it, each with the view of the catalog that it was made from.

    The user is current as long as the ratings have this state, and certainly while the database has this version.
    """

    serving_model: ServingModel
    state: RatingsState
    user: ModelUser
    data_version: DataVersion | None = None
    lists: dict[ListRequest, tuple[CatalogView, bytes]] = field(default_factory=dict)


@dataclass(slots=True)
class UserSlot:
    """The place in memory of one user id, whose newest cached user it holds."""

    user_id: str
    cached: CachedUser | None = None
