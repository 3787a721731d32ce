import dataclasses

import numpy as np
import pytest

from app.engine.bayes.average import PosteriorSettings, average_posterior
from app.engine.data.features import DAMPING
from app.engine.data.ratings import Ratings
from app.engine.factors import FactorModel
from app.engine.fold_in.fold_in import FoldIn
from app.engine.hyperparameters import Hyperparameters
from app.engine.retrieval.brute_force import top_n
from app.engine.retrieval.by_relevance import SHARE, best_by_relevance, relevance_model, relevance_user
from app.engine.sgd.local import LocalTrainer
from tests.conftest import KERNELS
from tests.engine.worlds import random_model, random_posterior

NOTHING = np.zeros(0, np.int32)


@pytest.fixture(scope="module")
def circles() -> FactorModel:
    """Even users rate items of the first half and odd ones those of the second, whatever they think of them; the first
    ten items of each half are rated three times as often as the others."""
    rng = np.random.default_rng(0)
    users, items = np.divmod(np.arange(200 * 80), 80)
    share = np.where(items % 40 < 10, 0.9, 0.3)
    is_rated = (users % 2 == items // 40) & (rng.random(users.size) < share)
    users, items = users[is_rated], items[is_rated]
    quality = rng.normal(3.5, 0.3, 80)
    values = np.clip(quality[items] + rng.normal(0, 0.7, items.size), 0.5, 5.0)
    ratings = Ratings.of(users, items, values, n_users=200, n_items=80)
    start = LocalTrainer(1, KERNELS).fit(ratings, Hyperparameters(n_factors=8, n_epochs=10)).model
    return average_posterior(start, ratings, seed=0, n_threads=1, settings=PosteriorSettings(n_sweeps=40)).model


def _added(model, item_rows):
    """What relevance adds to the prediction of every item, for somebody who rated these."""
    rows = np.array(item_rows, np.int32)
    user = FoldIn(model).fold_in(rows, np.full(rows.size, 3.5, np.float32))
    wide = relevance_user(model, user, rows)
    return relevance_model(model).item_factors[:, model.n_factors :] @ wide.factors[model.n_factors :]


def test_relevance_lifts_what_users_of_this_kind_come_across(circles):
    for half in (0, 1):
        added = _added(circles, 40 * half + np.array([1, 12, 14, 15])).reshape(2, 40)
        assert added[half, :10].min() > added[1 - half].max()
        assert added[half].mean() > 1.5 * added[1 - half].mean()


def test_for_somebody_without_ratings_it_lifts_what_is_rated_most(circles):
    added = _added(circles, []).reshape(2, 40)
    assert added[:, :10].min() > added[:, 10:].max()


def test_the_second_part_differs_between_items_by_half_of_what_predictions_do(circles):
    user_vectors = np.column_stack([np.ones(200), circles.user_factors])
    predicted = user_vectors @ np.column_stack([circles.item_bias, circles.item_factors]).T
    added = _added(circles, np.arange(0, 40, 2))
    assert 0.4 * SHARE < added.std() / predicted.std(axis=1).mean() < 2.5 * SHARE


def test_relevance_is_the_prediction_and_the_product_of_exposures():
    model = random_model(n_items=30)
    model = dataclasses.replace(model, posterior=random_posterior(model))
    rows, values = np.array([3, -1, 5], np.int32), np.array([5.0, 2.0, 1.0], np.float32)
    user, every = FoldIn(model).fold_in(rows, values), np.arange(30, dtype=np.int32)
    known = model.posterior
    per_item = known.exposure_factors / (model.item_counts + DAMPING)[:, None]
    exposure = (np.sqrt(DAMPING) * known.prior_exposure + per_item[3] + per_item[5]) / np.sqrt(2 + DAMPING)
    expected = FoldIn(model).predict(user, every)[0] + known.exposure_factors @ exposure
    found, relevances = top_n(relevance_model(model), relevance_user(model, user, rows), 30)
    np.testing.assert_allclose(relevances, expected[found], rtol=1e-4)
    best, scores = best_by_relevance(model, user, 30, rated=rows, excluded=NOTHING)
    assert best.tolist() == found.tolist()
    np.testing.assert_allclose(scores, relevances, rtol=1e-4)
    left, _ = best_by_relevance(model, user, 30, rated=rows, excluded=found[:1], candidates=found[:4])
    assert left.tolist() == found[1:4].tolist()


def test_without_exposure_a_list_is_ordered_by_predicted_rating():
    model = random_model()
    user = FoldIn(model).fold_in([1], [4.0])
    assert relevance_model(model) is model
    assert relevance_user(model, user, NOTHING) is user
    best, _ = best_by_relevance(model, user, 5, rated=NOTHING, excluded=NOTHING)
    assert best.tolist() == top_n(model, user, 5)[0].tolist()
