"""What answers a request: the active model version, or damped means as long as there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, func, select

from app.db.revisions import revision
from app.engine.arrays import Rows, Vector32
from app.engine.data.ratings import Vocabulary
from app.engine.factors import FactorModel, UserPrior
from app.engine.fold_in.fold_in import FoldIn
from app.engine.retrieval.brute_force import BruteForceRetriever, bayesian_means
from app.engine.retrieval.retriever import Retriever
from app.items.models import Item
from app.ratings.models import Rating
from app.ratings.store import UserRatings
from app.recommendations.catalog import Catalogue
from app.registry.artifacts import LoadedVersion, look_up, rows_by_key
from app.settings import RatingScale

Keys = npt.NDArray[np.int64]

DAMPING = 5.0  # ratings that the overall mean weighs against an item's or a user's own (Funk 2006; LensKit's default)
SHARE_OF_TIME = 0.05  # how much of a process's time may go into keeping the means fresh


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model together with what turns its rows into items."""

    version: int | None
    trained_through: int
    model: FactorModel
    fold_in: FoldIn
    retriever: Retriever
    item_ids: Vocabulary
    item_keys: Keys
    item_rows_of: Callable[[Keys], Rows]
    catalogue: Catalogue
    popularity: Vector32
    user_row_of: Callable[[int], int | None] = lambda _user_key: None

    def trained_row_of(self, known: UserRatings) -> int | None:
        """The user's row where the trained vector answers best: an average's, and of the very same ratings.

        None of them is newer than the version, and there are as many: so none was deleted either.
        """
        if self.model.posterior is None or known.user_key is None or not known.values.size:
            return None
        row = self.user_row_of(known.user_key)
        if row is None or self.model.user_counts[row] != known.values.size:
            return None
        return row if known.newest <= self.trained_through else None

    @classmethod
    def of_version(cls, loaded: LoadedVersion) -> ServedModel:
        return cls(
            loaded.version,
            loaded.trained_through,
            loaded.model,
            loaded.fold_in,
            loaded.retriever,
            loaded.item_ids,
            loaded.item_keys,
            loaded.item_rows_of,
            Catalogue(loaded.item_keys.size, loaded.item_rows_of),
            bayesian_means(loaded.model),
            loaded.user_row_of,
        )


class Means:
    """Damped item means in the shape of a model without factors, so that one path serves before and after training.

    Kept per process and brought up to date when the ratings have changed, but for at most a twentieth of the
    time: with many millions of ratings and no model yet, the means may lag behind. A user's own ratings never do.
    """

    def __init__(self, scale: RatingScale) -> None:
        self._scale = scale
        self._lock = threading.Lock()
        self._served: ServedModel | None = None
        self._not_before = 0.0

    def served(self, connection: Connection) -> ServedModel:
        """The means as of now, or a little older where computing them takes long."""
        newest = revision(connection, "ratings")
        with self._lock:
            if self._served is None or (
                self._served.trained_through != newest and time.monotonic() >= self._not_before
            ):
                started = time.monotonic()
                self._served = _means(connection, newest, self._scale)
                finished = time.monotonic()
                self._not_before = finished + (finished - started) / SHARE_OF_TIME
            return self._served


def _means(connection: Connection, newest: int, scale: RatingScale) -> ServedModel:
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
    return ServedModel(
        version=None,
        trained_through=newest,
        model=(model := _bias_model(counts, sums, float(squares.sum()), scale)),
        fold_in=FoldIn(model),
        retriever=BruteForceRetriever(model),
        item_ids=vocabulary,
        item_keys=keys,
        item_rows_of=(item_rows_of := partial(look_up, rows_by_key(keys))),
        catalogue=Catalogue(keys.size, item_rows_of),
        popularity=bayesian_means(model),
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
