import dataclasses

import numpy as np
import pytest

from app.engine.bayes.average import PosteriorSettings, average_posterior
from app.engine.data.ratings import Ratings
from app.engine.evaluation import interval_coverage, rmse, split_holdout
from app.engine.factors import FactorModel
from app.engine.fold_in.fold_in import FoldIn
from app.engine.hyperparameters import Hyperparameters
from app.engine.sgd.local import LocalTrainer
from app.engine.sgd.trainer import FitCancelled
from benchmarks.engine_folds import by_fold_in
from tests.conftest import KERNELS
from tests.engine.worlds import planted

SHORT = PosteriorSettings(n_sweeps=60, n_burn_in=10, n_directions=4)


@pytest.fixture(scope="module")
def world():
    return planted(n_users=300, n_items=200, n_ratings=9000, rank=1, noise=0.5)


@pytest.fixture(scope="module")
def sgd(world):
    return LocalTrainer(1, KERNELS).fit(world.ratings, Hyperparameters(n_factors=8, n_epochs=15)).model


def _average(world, sgd, n_threads=1, **chosen):
    learned, holdout = split_holdout(world.ratings, 0.1, 0)
    return average_posterior(
        sgd, learned, seed=1, n_threads=n_threads, holdout=holdout, **{"settings": SHORT, **chosen}
    )


@pytest.fixture(scope="module")
def averaged(world, sgd):
    return _average(world, sgd)


def _error(world, model):
    unseen = world.unseen
    return rmse(model.predict(unseen.user_rows, unseen.item_rows), unseen.values)


def test_a_rank_one_world_is_recovered_better_than_by_sgd(world, sgd, averaged):
    assert world.noise < _error(world, averaged.model) < 1.12 * world.noise
    assert _error(world, averaged.model) < _error(world, sgd)


def test_folding_in_against_the_posterior_is_nearly_as_good_as_its_own_vectors(world, averaged):
    learned, _ = split_holdout(world.ratings, 0.1, 0)
    predicted, variances = by_fold_in(averaged.model, learned, world.unseen)
    assert rmse(predicted, world.unseen.values) < 1.03 * _error(world, averaged.model)
    fold_in, covered = FoldIn(averaged.model), []
    for user_row in range(300):
        seen, asked = learned.of_user(user_row), world.unseen.of_user(user_row)
        user = fold_in.fold_in(learned.item_rows[seen], learned.values[seen])
        items = world.unseen.item_rows[asked]
        lower, upper = fold_in.interval(user, items, predicted[asked], variances[asked], 0.8)
        covered += [interval_coverage(world.unseen.values[asked], lower, upper)] * items.size
    assert np.mean(covered) == pytest.approx(0.8, abs=0.04)


def test_the_published_model_is_an_ordinary_one_of_low_rank(averaged):
    model = averaged.model
    assert 1 <= model.n_factors <= 16
    assert model.user_factors.shape == (300, model.n_factors)
    again = FactorModel.from_arrays(model.arrays())
    assert again.digest() == model.digest()


def test_the_same_seed_gives_the_same_bits_for_one_and_two_threads(world, sgd, averaged):
    assert _average(world, sgd, n_threads=2).model.digest() == averaged.model.digest()


def test_every_sweep_is_reported_and_the_chain_ends_when_the_error_has_settled(world, sgd):
    reports = []
    fit = _average(world, sgd, on_sweep=reports.append, settings=PosteriorSettings(n_sweeps=400, n_directions=4))
    assert [report.epoch for report in reports] == list(range(1, len(reports) + 1))
    assert tuple(reports) == fit.sweeps
    assert len(reports) < 400
    assert reports[-1].holdout_rmse < reports[25].holdout_rmse * 1.01


def test_a_fit_of_all_ratings_takes_sweeps_rank_and_calibration_from_the_first(world, sgd, averaged):
    final = average_posterior(sgd, world.ratings, seed=1, n_threads=1, first=averaged, settings=SHORT)
    assert len(final.sweeps) == len(averaged.sweeps)
    assert final.model.n_factors == averaged.model.n_factors
    np.testing.assert_array_equal(final.model.posterior.reach, averaged.model.posterior.reach)
    np.testing.assert_array_equal(final.model.posterior.holdout_scales, averaged.model.posterior.holdout_scales)


def test_a_cancelled_chain_stops_at_once(world, sgd):
    reports = []
    with pytest.raises(FitCancelled) as stopped:
        _average(world, sgd, on_sweep=reports.append, is_cancelled=lambda: len(reports) == 3)
    assert stopped.value.epoch == 4


def test_unrated_items_are_predicted_from_their_side_information(world, sgd):
    """Items of one kind are good and of the other bad; hidden ones are reports apart by their kind alone."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 200)
    ratings = world.ratings
    values = ratings.values + kind[ratings.item_rows]
    hidden = np.arange(200) % 10 == 0
    known = dataclasses.replace(ratings, values=values.astype(np.float32)).take(~hidden[ratings.item_rows])
    start = LocalTrainer(1, KERNELS).fit(known, Hyperparameters(n_factors=8, n_epochs=10)).model
    fit = average_posterior(
        *(start, known),
        seed=0,
        n_threads=1,
        item_features=kind[:, None].astype(np.float32),
        settings=PosteriorSettings(n_sweeps=50, n_directions=4),
    )
    guesses = fit.model.item_bias[hidden]
    assert 0.6 < guesses[kind[hidden] == 1].mean() - guesses[kind[hidden] == 0].mean() < 1.4


def test_a_handful_of_ratings_gives_a_model_too():
    few = Ratings.of([0, 0, 1], [0, 1, 0], [4.0, 2.0, 5.0], n_users=2, n_items=2)
    start = LocalTrainer(1, KERNELS).fit(few, Hyperparameters(n_factors=4, n_epochs=3)).model
    model = average_posterior(start, few, seed=0, n_threads=1, settings=SHORT).model
    assert all(np.isfinite(array).all() for array in model.arrays().values())
    assert model.item_bias[0] > model.item_bias[1]


def test_a_chain_over_ratings_without_noise_stays_finite():
    """Users love their own kind and hate the other: the model can explain that exactly."""
    users, items = np.divmod(np.arange(100), 10)
    is_rated = (3 * users + items) % 5 > 0
    values = np.where((users + items) % 2 == 0, 5.0, 1.0)
    ratings = Ratings.of(users[is_rated], items[is_rated], values[is_rated], n_users=10, n_items=10)
    start = LocalTrainer(1, KERNELS).fit(ratings, Hyperparameters(n_factors=4, n_epochs=40, learning_rate=0.1)).model
    model = average_posterior(start, ratings, seed=0, n_threads=1).model
    predicted = model.predict(users[~is_rated].astype(np.int32), items[~is_rated].astype(np.int32))
    assert np.abs(predicted - values[~is_rated]).mean() < 1.0
