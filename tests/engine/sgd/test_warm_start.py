import numpy as np
import pytest

from app.engine.data.ratings import Ratings
from app.engine.evaluation import rmse
from app.engine.factors import FactorModel
from app.engine.fold_in.fold_in import FoldIn
from app.engine.hyperparameters import Hyperparameters
from app.engine.sgd import local
from app.engine.sgd.local import LocalTrainer
from app.engine.sgd.trainer import NoRatings
from app.engine.sgd.warm_start import carry_over, sample, warm_hyperparameters
from tests.conftest import KERNELS
from tests.engine.worlds import PlantedWorld, planted

CHOSEN = Hyperparameters(n_factors=4, n_epochs=30, learning_rate=0.05)
WARM = warm_hyperparameters(CHOSEN, n_epochs=2)


@pytest.fixture(scope="module")
def world() -> PlantedWorld:
    return planted(n_users=600, n_items=300, n_ratings=40_000)


def _fit(ratings: Ratings) -> FactorModel:
    return LocalTrainer(1, KERNELS).fit(ratings, CHOSEN).model


def _renamed(ratings: Ratings, n_users: int, n_items: int) -> tuple[Ratings, np.ndarray, np.ndarray]:
    """The first users and items of the ratings only, and the rows that all of them have there."""
    is_old = (ratings.user_rows < n_users) & (ratings.item_rows < n_items)
    old = Ratings.of(
        *(ratings.user_rows[is_old], ratings.item_rows[is_old], ratings.values[is_old]),
        n_users=n_users,
        n_items=n_items,
    )
    user_rows, item_rows = np.arange(ratings.n_users), np.arange(ratings.n_items)
    return (
        old,
        np.where(user_rows < n_users, user_rows, -1).astype(np.int32),
        np.where(item_rows < n_items, item_rows, -1).astype(np.int32),
    )


def _error(model: FactorModel, world: PlantedWorld) -> float:
    unseen = world.unseen
    return rmse(model.predict(unseen.user_rows, unseen.item_rows), unseen.values)


def test_known_rows_keep_their_vectors_and_new_users_are_folded_in(world: PlantedWorld) -> None:
    old, user_rows, item_rows = _renamed(world.ratings, 590, 300)
    model = _fit(old)
    start = carry_over(model, world.ratings, user_rows, item_rows, world.ratings)
    assert np.array_equal(start.item_factors, model.item_factors)
    assert np.array_equal(start.user_factors[:590], model.user_factors)
    assert np.array_equal(start.user_bias[:590], model.user_bias)
    of_595 = world.ratings.of_user(595)
    side = FoldIn(model).fold_in(world.ratings.item_rows[of_595], world.ratings.values[of_595])
    assert np.allclose(start.user_factors[595], side.factors)
    assert start.user_bias[595] == pytest.approx(side.bias)


def test_new_users_and_items_are_predicted_before_any_epoch(world: PlantedWorld) -> None:
    old, user_rows, item_rows = _renamed(world.ratings, 560, 280)
    start = carry_over(_fit(old), world.ratings, user_rows, item_rows, world.ratings)
    unseen = world.unseen
    is_new = (unseen.user_rows >= 560) | (unseen.item_rows >= 280)
    users, items = unseen.user_rows[is_new], unseen.item_rows[is_new]
    dots = np.einsum("nk,nk->n", start.user_factors[users], start.item_factors[items])
    found = rmse(start.mean + start.user_bias[users] + start.item_bias[items] + dots, unseen.values[is_new])
    assert is_new.sum() > 100
    assert found < 0.25 < unseen.values[is_new].std() / 2


def test_rows_without_ratings_start_as_the_average(world: PlantedWorld) -> None:
    model = _fit(world.ratings)
    ratings = Ratings(*(world.ratings.user_rows, world.ratings.item_rows, world.ratings.values), 601, 300)
    user_rows = np.append(np.arange(600), -1).astype(np.int32)
    start = carry_over(model, ratings, user_rows, np.arange(300, dtype=np.int32), ratings)
    assert np.allclose(start.user_factors[600], model.user_prior.mean[1:], atol=1e-5)


def test_a_warm_fit_is_as_good_as_a_cold_one(world: PlantedWorld) -> None:
    everything = world.ratings
    is_old = np.random.default_rng(0).random(len(everything)) < 0.95
    rows = np.arange(600, dtype=np.int32), np.arange(300, dtype=np.int32)
    model = _fit(everything.take(is_old))
    start = carry_over(model, everything, *rows, everything)
    warm = LocalTrainer(1, KERNELS).fit(everything, WARM, start=start)
    assert len(warm.epochs) == 2
    assert warm.model.user_counts.sum() == len(everything)
    assert _error(warm.model, world) < 1.02 * _error(_fit(everything), world)


def test_changed_ratings_are_learned(world: PlantedWorld) -> None:
    everything = world.ratings
    model = _fit(everything)
    values = everything.values.copy()
    values[: everything.of_user(20).start] += 1.0  # twenty users have become kinder
    changed = Ratings(everything.user_rows, everything.item_rows, values, 600, 300)
    rows = np.arange(600, dtype=np.int32), np.arange(300, dtype=np.int32)
    start = carry_over(model, changed, *rows, changed)
    warm = LocalTrainer(1, KERNELS).fit(changed, WARM.replace(n_epochs=5), start=start).model
    assert (warm.user_bias[:20] - model.user_bias[:20]).mean() > 0.5
    assert abs((warm.user_bias[20:] - model.user_bias[20:]).mean()) < 0.1


def test_the_number_of_threads_changes_no_bit(world: PlantedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_RATINGS_PER_THREAD", 1)
    rows = np.arange(600, dtype=np.int32), np.arange(300, dtype=np.int32)
    ratings_to_learn = sample(world.ratings, np.arange(len(world.ratings)) % 50 == 0, 0.5, [0, 1])
    start = carry_over(_fit(world.ratings), world.ratings, *rows, ratings_to_learn)
    digests = {
        LocalTrainer(n, KERNELS).fit(world.ratings, WARM, holdout=world.unseen, start=start).model.digest()
        for n in (1, 2, 4)
    }
    assert len(digests) == 1


def test_a_sample_holds_every_changed_rating_and_its_share_of_the_others(world: PlantedWorld) -> None:
    is_changed = np.zeros(len(world.ratings), np.bool_)
    is_changed[::100] = True
    ratings_to_learn = sample(world.ratings, is_changed, 0.2, [3, 1])
    width = world.ratings.n_items
    taken = np.isin(
        world.ratings.user_rows.astype(np.int64) * width + world.ratings.item_rows,
        ratings_to_learn.user_rows.astype(np.int64) * width + ratings_to_learn.item_rows,
    )
    assert taken[is_changed].all()
    assert 0.19 < taken[~is_changed].mean() < 0.21
    assert sample(world.ratings, is_changed, 1.0, [3, 1]) is world.ratings


def test_an_empty_ratings_to_learn_is_refused(world: PlantedWorld) -> None:
    rows = np.arange(600, dtype=np.int32), np.arange(300, dtype=np.int32)
    nothing = world.ratings.take(np.zeros(len(world.ratings), np.bool_))
    start = carry_over(_fit(world.ratings), world.ratings, *rows, nothing)
    with pytest.raises(NoRatings):
        LocalTrainer(1, KERNELS).fit(world.ratings, WARM, start=start)
