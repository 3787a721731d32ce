"""Which model answers: the active version, an earlier one for later pages of a list, or means before the first one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, func, select

from app.db.engine import Database
from app.db.revisions import revision
from app.engine.data.id_search import rows_by_key
from app.engine.data.ratings import Vocabulary
from app.engine.factors import FactorModel, UserPrior
from app.engine.fold_in.fold_in import FoldIn
from app.engine.retrieval.brute_force import BruteForceRetriever
from app.engine.retrieval.retriever import NO_ROWS
from app.errors import Conflict
from app.items.models import Item
from app.ratings.models import Rating
from app.recommendations.popularity import FromAllRatings
from app.recommendations.serving_model import ServingModel
from app.registry import artifacts, versions
from app.registry.artifacts import LoadedVersion
from app.registry.live_model import LiveModel
from app.settings import RatingScale, Settings

DAMPING = 5.0  # ratings that the overall mean weighs against an item's or a user's own (Funk 2006; LensKit's default)
MAX_EARLIER = 2
"""Earlier versions that stay loaded for later pages of lists."""


class VersionGone(Conflict):
    """A later page was requested of a list whose version no longer exists."""

    def __init__(self, version: int) -> None:
        super().__init__(f"this list was made by model version {version}, which no longer exists; omit the cursor")
        self.version = version


class ServingModels:
    """The serving models of one process. `current` is the active version; None before the first one."""

    def __init__(self, database: Database, live: LiveModel, settings: Settings) -> None:
        self._database = database
        self._scale = settings.rating
        self._versions_dir = settings.versions_dir
        self._means = FromAllRatings[ServingModel]()
        self.current = self._serving(live.current) if live.current else None
        self._earlier: tuple[ServingModel, ...] = ()
        live.before_swap = self.prepare

    def active(self, connection: Connection) -> ServingModel:
        """The active version, or the means before the first one, so that requests before and after take one path."""
        if self.current:
            return self.current
        newest = revision(connection, "ratings")
        return self._means.current(newest, lambda: _means_model(connection, newest, self._scale))

    def prepare(self, loaded: LoadedVersion) -> None:
        """Make this version the current one once all that it answers from is built; the old one answers until then."""
        model = self._serving(loaded)
        with self._database.read() as connection:
            model.catalog.view(connection)
        self.current = model  # the swap: one assignment

    def of_version(self, connection: Connection, version: int) -> ServingModel:
        """The model of any version that still exists; raises VersionGone."""
        for model in (self.current, *self._earlier):
            if model and model.version == version:
                return model
        try:
            row = versions.get(connection, version)
        except versions.UnknownVersion:
            raise VersionGone(version) from None
        model = self._serving(artifacts.load(self._versions_dir / row.folder, row.version, row.manifest))
        self._earlier = (model, *self._earlier[: MAX_EARLIER - 1])
        return model

    def _serving(self, loaded: LoadedVersion) -> ServingModel:
        return ServingModel(
            loaded.version,
            loaded.trained_through,
            loaded.model,
            loaded.fold_in,
            loaded.retriever,
            loaded.item_ids,
            loaded.item_keys,
            loaded.item_row_of_key,
            loaded.user_row_of_key,
            self._scale,
        )


def _means_model(connection: Connection, newest: int, scale: RatingScale) -> ServingModel:
    """Damped item means as a model without factors. A user's own ratings are folded in, so they never lag behind."""
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
    model = _bias_model(counts, sums, float(squares.sum()), scale)
    fold_in, retriever = FoldIn(model), BruteForceRetriever(model)
    return ServingModel(None, newest, model, fold_in, retriever, vocabulary, keys, rows_by_key(keys), NO_ROWS, scale)


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
