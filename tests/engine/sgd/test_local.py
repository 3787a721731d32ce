import threading
from itertools import count

import numpy as np
import pytest

import app.engine.sgd.local as local
from app.engine.data.ratings import Ratings
from app.engine.evaluation import rmse, split_holdout
from app.engine.fold_in.fold_in import FoldIn
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.catalog import ENTRIES
from app.engine.losses.declare import declare
from app.engine.losses.grammar import InvalidLoss
from app.engine.retrieval.brute_force import bayesian_means, top_n
from app.engine.sgd.local import LocalTrainer
from app.engine.sgd.trainer import Diverged, FitCancelled, NoRatings
from tests.conftest import KERNELS
from tests.engine.worlds import planted

SMALL = Hyperparameters(n_factors=8, n_epochs=40, learning_rate=0.05, regularization=0.01, reg_bias=0.01)


def trainer(n_threads=1):
    return LocalTrainer(n_threads, KERNELS)


@pytest.fixture(scope="module")
def world():
    return planted()


@pytest.fixture
def always_threaded(monkeypatch):
    """Threads even where so few ratings would be faster on one."""
    monkeypatch.setattr(local, "_RATINGS_PER_THREAD", 1)


def test_a_planted_world_is_recovered(world):
    model = trainer().fit(world.ratings, SMALL).model
    unseen = world.unseen
    error = rmse(model.predict(unseen.user_rows, unseen.item_rows), unseen.values)
    assert error < 1.5 * world.noise  # biases alone leave 0.5


def test_folding_the_users_of_a_planted_world_in_recovers_it_too(world):
    model = trainer().fit(world.ratings, SMALL, holdout=world.unseen).model
    fold_in, ratings, unseen = FoldIn(model), world.ratings, world.unseen
    predicted = np.empty(len(unseen), np.float32)
    for user_row in range(ratings.n_users):
        seen, asked = ratings.of_user(user_row), unseen.of_user(user_row)
        user = fold_in.fold_in(ratings.item_rows[seen], ratings.values[seen])
        predicted[asked], _ = fold_in.predict(user, unseen.item_rows[asked])
    assert rmse(predicted, unseen.values) < 1.5 * world.noise


@pytest.mark.usefixtures("always_threaded")
def test_the_same_seed_gives_the_same_model_with_one_two_and_four_threads(world):
    train, holdout = split_holdout(world.ratings, 0.1, seed=3)
    settings = SMALL.replace(n_epochs=5)
    digests = {trainer(n).fit(train, settings, holdout=holdout).model.digest() for n in (1, 2, 4, 4)}
    assert len(digests) == 1


def test_another_seed_gives_another_model(world):
    settings = SMALL.replace(n_epochs=2)
    first, second = (trainer().fit(world.ratings, settings.replace(seed=seed)).model for seed in (0, 1))
    assert first.digest() != second.digest()


def test_every_epoch_is_reported_as_it_ends(world):
    seen = []
    fit = trainer().fit(world.ratings, SMALL.replace(n_epochs=4), holdout=world.unseen, on_epoch=seen.append)
    assert fit.epochs == tuple(seen)
    assert [report.epoch for report in seen] == [1, 2, 3, 4]
    assert seen[0].learning_rate > seen[-1].learning_rate
    assert seen[0].train_rmse > seen[-1].train_rmse
    assert all(report.holdout_rmse is not None and report.ratings_per_second > 0 for report in seen)


def test_the_holdout_error_reported_is_that_of_the_model_handed_out(world):
    fit = trainer().fit(world.ratings, SMALL.replace(n_epochs=6), holdout=world.unseen)
    predicted = fit.model.predict(world.unseen.user_rows, world.unseen.item_rows)
    assert rmse(predicted, world.unseen.values) == pytest.approx(fit.best.holdout_rmse, rel=1e-5)


@pytest.fixture
def overfitted():
    """A noisy world and a step size that learns it by heart: the hold-out error falls, then rises."""
    noisy = planted(n_users=100, n_items=100, n_ratings=3000, noise=0.8)
    settings = Hyperparameters(n_factors=32, n_epochs=60, learning_rate=0.1, regularization=0.0, patience=3)
    return noisy, settings.replace(schedule="constant", initial_scale=0.3)


def test_patience_ends_a_fit_that_gets_worse_and_the_best_epoch_is_kept(overfitted):
    noisy, settings = overfitted
    fit = trainer().fit(noisy.ratings, settings, holdout=noisy.unseen)
    errors = [report.holdout_rmse for report in fit.epochs]
    assert fit.best_epoch == 1 + int(np.argmin(errors))
    assert len(fit.epochs) == fit.best_epoch + 3 < 60
    predicted = fit.model.predict(noisy.unseen.user_rows, noisy.unseen.item_rows)
    assert rmse(predicted, noisy.unseen.values) == pytest.approx(min(errors), rel=1e-5)


def test_steps_too_large_stop_the_fit_with_a_clear_reason(world):
    with pytest.raises(Diverged, match="diverged in epoch 1 at learning rate 1: the training error") as stop:
        trainer().fit(world.ratings, SMALL.replace(learning_rate=1.0, initial_scale=1.0))
    assert (stop.value.epoch, stop.value.learning_rate) == (1, 1.0)


def test_an_error_that_grows_but_stays_finite_is_divergence_too(world):
    with pytest.raises(Diverged, match=r"rose to .*, more than "):
        trainer().fit(world.ratings, SMALL.replace(n_epochs=1, learning_rate=1e-6, initial_scale=1.0, n_factors=64))


def test_a_cancelled_fit_stops_before_its_epoch_is_over(world, monkeypatch):
    monkeypatch.setattr(local, "_RATINGS_PER_CALL", len(world.ratings) // 8)
    asked = count()
    with pytest.raises(FitCancelled) as stop:
        trainer().fit(world.ratings, SMALL, is_cancelled=lambda: next(asked) >= 11)
    assert stop.value.epoch == 2  # asked before each of eight strata: the twelfth question is in the second
    assert next(asked) == 12


def test_no_thread_outlives_a_fit(world):
    before = threading.active_count()
    trainer(2).fit(world.ratings, SMALL.replace(n_epochs=1))
    assert threading.active_count() == before


def test_ratings_on_another_scale_give_the_same_model_on_that_scale(world):
    ratings, settings = world.ratings, SMALL.replace(n_epochs=5)
    stretched = Ratings.of(ratings.user_rows, ratings.item_rows, ratings.values * 20 - 10, n_users=300, n_items=200)
    unseen = (world.unseen.user_rows, world.unseen.item_rows)
    plain = trainer().fit(ratings, settings).model.predict(*unseen)
    wide = trainer().fit(stretched, settings).model.predict(*unseen)
    np.testing.assert_allclose(wide, plain * 20 - 10, rtol=1e-3, atol=1e-2)


def test_the_learned_vectors_have_the_length_asked_for(world):
    model = trainer().fit(world.ratings, SMALL.replace(n_factors=5, n_epochs=1)).model
    assert model.item_factors.shape == (200, 5)
    assert model.user_prior.covariance.shape == (6, 6)


TINY = {
    "one rating": ([0], [0], [4]),
    "one rating among strangers": ([2], [3], [4]),
    "one user": ([0] * 10, list(range(10)), [1, 2, 3, 4, 5] * 2),
    "one item": (list(range(10)), [0] * 10, [1, 2, 3, 4, 5] * 2),
    "all equal": ([0, 0, 1, 1], [0, 1, 0, 1], [3] * 4),
    "all zero": ([0, 0, 1, 1], [0, 1, 0, 1], [0] * 4),
    "ten ratings": ([0, 0, 0, 1, 1, 1, 2, 2, 2, 2], [0, 1, 2, 0, 1, 3, 0, 1, 2, 3], [5, 4, 1, 5, 4, 2, 1, 2, 5, 4]),
    "huge values": ([0, 0, 1, 1], [0, 1, 0, 1], [1e7, 2e7, 3e7, 4e7]),
    "minute values": ([0, 0, 1, 1], [0, 1, 0, 1], [1e-7, 2e-7, 3e-7, 4e-7]),
}


@pytest.mark.parametrize("name", TINY)
def test_the_defaults_are_sane_on_tiny_data(name):
    users, items, values = TINY[name]
    ratings = Ratings.of(users, items, values, n_users=max(users) + 1, n_items=max(items) + 1)
    model = trainer().fit(ratings, Hyperparameters()).model
    assert all(np.isfinite(array).all() for array in model.arrays().values())
    low, high = min(values), max(values)
    slack = 0.1 * max(high - low, abs(high) or 1.0)
    predicted = model.predict(ratings.user_rows, ratings.item_rows)
    assert ((predicted > low - slack) & (predicted < high + slack)).all()
    user = FoldIn(model).fold_in(ratings.item_rows[:1], ratings.values[:1])
    top_n(model, user, 3), bayesian_means(model)


def test_an_empty_holdout_is_no_holdout(world):
    nothing = world.unseen.take(np.zeros(0, np.int64))
    fit = trainer().fit(world.ratings, SMALL.replace(n_epochs=2), holdout=nothing)
    assert fit.best_epoch == 2
    assert fit.best.holdout_rmse is None


def test_there_must_be_something_to_learn_from():
    with pytest.raises(NoRatings):
        trainer().fit(Ratings.of([], [], [], n_users=3, n_items=3), SMALL)


ANY_LOSS = [
    *(declare(entry.name, rating_range=(-3.0, 9.0)) for entry in ENTRIES if entry.name != "poisson"),
    declare("log(cosh(r - r_hat))"),
    declare("abs(r - r_hat)**1.5"),
    declare("squared", link="sigmoid", rating_range=(-3.0, 9.0)),
    declare("squared", penalty="elastic_net", parameters={"l1_share": 0.1}),
    declare("huber", penalty="theta**2 / 2 + theta**4"),
    declare("squared", penalty="p**2 / 2 + q**2 / 2 + b_u**2 / 2 + b_i**2 / 2"),
]


@pytest.mark.parametrize("loss", ANY_LOSS, ids=lambda loss: f"{loss.error} {loss.penalty} {loss.link}")
def test_a_planted_world_is_recovered_by_any_loss(world, loss):
    fit = LocalTrainer(1, KERNELS, loss).fit(world.ratings, SMALL, holdout=world.unseen)
    predicted = fit.model.predict(world.unseen.user_rows, world.unseen.item_rows)
    assert rmse(predicted, world.unseen.values) < 2.5 * world.noise  # biases alone leave 0.5
    assert rmse(predicted, world.unseen.values) == pytest.approx(fit.best.holdout_rmse, rel=1e-4)


def test_no_penalty_is_a_penalty_of_weight_zero(world):
    none = LocalTrainer(1, KERNELS, declare(penalty="none")).fit(world.ratings, SMALL.replace(n_epochs=3)).model
    zero = trainer().fit(world.ratings, SMALL.replace(n_epochs=3, regularization=0.0, reg_bias=0.0)).model
    assert none.digest() == zero.digest()


def test_a_penalty_written_out_by_group_is_the_one_in_theta(world):
    settings = SMALL.replace(n_epochs=3)
    text = "p**2 / 2 + q**2 / 2 + b_u**2 / 2 + b_i**2 / 2"
    by_group = LocalTrainer(1, KERNELS, declare(penalty=text)).fit(world.ratings, settings).model
    in_theta = trainer().fit(world.ratings, settings).model
    # Weight decay is paid in instalments, other penalties at every step: nearly the same.
    np.testing.assert_allclose(by_group.item_factors, in_theta.item_factors, rtol=0.1, atol=0.02)


def test_a_strong_lasso_leaves_nothing_of_the_vectors(world):
    lasso = declare(penalty="abs(p) + abs(q)")
    model = LocalTrainer(1, KERNELS, lasso).fit(world.ratings, SMALL.replace(regularization=0.5, n_epochs=10)).model
    assert np.abs(model.item_factors).max() < 0.05
    assert np.abs(model.item_bias).max() > 0.5


def test_counts_are_learned_by_the_poisson_loss():
    rng = np.random.default_rng(0)
    u, i = np.divmod(rng.permutation(60_000)[:30_000], 200)
    rate = np.exp(0.5 + rng.normal(0, 0.5, 300)[u] + rng.normal(0, 0.5, 200)[i])
    counts = rng.poisson(rate).astype(float)
    ratings = Ratings.of(u, i, counts, n_users=300, n_items=200)
    model = LocalTrainer(1, KERNELS, declare("poisson")).fit(ratings, SMALL.replace(n_factors=1)).model
    predicted = model.predict(ratings.user_rows, ratings.item_rows)
    assert (predicted > 0).all()
    order = np.lexsort((i, u))
    assert rmse(np.log(predicted), np.log(rate[order])) < 0.25
    assert model.temperature == pytest.approx(1, abs=0.2)  # its error is a likelihood


def test_a_quantile_is_exceeded_as_often_as_it_says(world):
    loss = declare("quantile", parameters={"level": 0.9, "width": 0.02})
    noisy = planted(n_users=100, n_items=60, n_ratings=5000, noise=0.5)
    model = LocalTrainer(1, KERNELS, loss).fit(noisy.ratings, SMALL.replace(n_factors=2, n_epochs=60)).model
    predicted = model.predict(noisy.ratings.user_rows, noisy.ratings.item_rows)
    assert np.mean(noisy.ratings.values < predicted) == pytest.approx(0.9, abs=0.04)


def test_a_few_wild_ratings_do_not_bend_a_robust_loss(world):
    wild = world.ratings.values.copy()
    wild[::20] += 30.0
    ratings = Ratings.of(world.ratings.user_rows, world.ratings.item_rows, wild, n_users=300, n_items=200)
    errors = {}
    for loss in (declare("squared"), declare("huber", parameters={"delta": 0.2})):
        model = LocalTrainer(1, KERNELS, loss).fit(ratings, SMALL.replace(learning_rate=0.02)).model
        errors[loss.name] = rmse(model.predict(world.unseen.user_rows, world.unseen.item_rows), world.unseen.values)
    assert errors["huber"] < 0.5 * errors["squared"]


def test_a_loss_on_another_scale_gives_the_same_model_on_that_scale(world):
    ratings, settings = world.ratings, SMALL.replace(n_epochs=5)
    stretched = Ratings.of(ratings.user_rows, ratings.item_rows, ratings.values * 16, n_users=300, n_items=200)
    unseen = (world.unseen.user_rows, world.unseen.item_rows)
    plain = LocalTrainer(1, KERNELS, declare("huber")).fit(ratings, settings).model.predict(*unseen)
    wide = declare("huber", parameters={"delta": 16.0})
    wide_model = LocalTrainer(1, KERNELS, wide).fit(stretched, settings).model
    np.testing.assert_allclose(wide_model.predict(*unseen), plain * 16, rtol=1e-3, atol=1e-2)


def test_the_rating_that_broke_a_fit_is_named(world):
    with pytest.raises(Diverged, match=r"first at rating \d+ \([\d.-]+ by user row \d+ of item row \d+\)") as stop:
        LocalTrainer(1, KERNELS, declare("(r - r_hat)**4")).fit(
            world.ratings, SMALL.replace(learning_rate=1.0, initial_scale=1.0)
        )
    assert stop.value.epoch == 1


def test_a_loss_that_is_no_number_somewhere_is_refused_before_the_first_epoch(world):
    epochs = []
    with pytest.raises(InvalidLoss, match="logarithm"):
        LocalTrainer(1, KERNELS, declare("(r - r_hat)**2 + log(r - 3)")).fit(
            world.ratings, SMALL, on_epoch=epochs.append
        )
    assert not epochs


def test_predictions_behind_a_sigmoid_stay_inside_the_range(world):
    loss = declare("squared", link="sigmoid", rating_range=(1.0, 5.0))
    clipped = np.clip(world.ratings.values, 1.0, 5.0)
    ratings = Ratings.of(world.ratings.user_rows, world.ratings.item_rows, clipped, n_users=300, n_items=200)
    model = LocalTrainer(1, KERNELS, loss).fit(ratings, SMALL).model
    fold_in = FoldIn(model)
    user = fold_in.fold_in(np.arange(50, dtype=np.int32), np.full(50, 5.0))
    predicted, _ = fold_in.predict(user, np.arange(200))
    assert predicted.min() > 1.0
    assert 4.5 < predicted.max() <= 5.0
    _, best = top_n(model, user, 3)
    assert best.max() <= 5.0
    popular = bayesian_means(model)
    assert ((popular >= 1.0) & (popular <= 5.0)).all()
