import dataclasses

import numpy as np
import pytest

from app.engine.arrays import InvalidArray
from app.engine.data.features import DAMPING
from app.engine.factors import FactorModel, UserPrior
from app.engine.fold_in.fold_in import FoldIn
from app.engine.fold_in.intervals import INTERVAL_LEVEL, gaussian_interval
from app.engine.fold_in.kernels import IMPLICIT_RATINGS, NOISE_RATINGS
from tests.engine.worlds import model_of, random_model, random_posterior


def closed_form(model, item_rows, values):
    """A_u and x_u of the ridge solve, in float64 with numpy."""
    precision = np.linalg.inv(model.user_prior.covariance)
    y = np.hstack([np.ones((len(item_rows), 1)), model.item_factors[item_rows].astype(np.float64)])
    d = np.asarray(values, np.float64) - model.mean - model.item_bias[item_rows].astype(np.float64)
    A = precision + y.T @ y / model.noise_variance
    return A, np.linalg.solve(A, precision @ model.user_prior.mean + y.T @ d / model.noise_variance)


def ratings_of(model, n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.permutation(model.n_items)[:n].astype(np.int32), rng.integers(1, 11, n).astype(np.float32) / 2


@pytest.mark.parametrize("k", [1, 6, 64])
@pytest.mark.parametrize("n", [1, 3, 4, 17, 165])
def test_a_folded_in_user_is_the_closed_form_solution(k, n):
    model = random_model(n_items=200, k=k, seed=k + n)
    rows, values = ratings_of(model, n)
    user = FoldIn(model).fold_in(rows, values)
    A, x = closed_form(model, rows, values)
    np.testing.assert_allclose([user.bias, *user.factors], x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(user.covariance(), np.linalg.inv(A), rtol=1e-4, atol=1e-6)


def test_predictions_and_their_variances_are_those_of_the_posterior():
    model = random_model()
    rows, values = ratings_of(model, 9)
    fold_in = FoldIn(model)
    predicted, variances = fold_in.predict(fold_in.fold_in(rows, values), np.arange(40))
    A, x = closed_form(model, rows, values)
    y = np.hstack([np.ones((40, 1)), model.item_factors])
    np.testing.assert_allclose(predicted, model.mean + model.item_bias + y @ x, rtol=1e-5)
    uncertainty = np.einsum("if,fg,ig->i", y, np.linalg.inv(A), y)
    np.testing.assert_allclose(variances, model.noise_variance + uncertainty, rtol=1e-5)


def test_no_ratings_give_the_prior_mean():
    model = random_model()
    user = FoldIn(model).fold_in([], [])
    assert [user.bias, *user.factors] == pytest.approx(model.user_prior.mean, abs=1e-6)
    assert user.n_ratings == 0


def test_the_first_rating_already_moves_the_user_towards_it():
    model = random_model()
    fold_in = FoldIn(model)
    before, _ = fold_in.predict(fold_in.fold_in([], []), [7])
    after, _ = fold_in.predict(fold_in.fold_in([7], [before[0] + 2]), [7])
    assert before[0] < after[0] < before[0] + 2


def test_uncertainty_about_an_item_shrinks_when_it_is_rated():
    fold_in = FoldIn(random_model())
    _, before = fold_in.predict(fold_in.fold_in([], []), [7])
    _, after = fold_in.predict(fold_in.fold_in([7], [3.0]), [7])
    assert after[0] < before[0]


def test_the_order_of_the_ratings_does_not_matter():
    model = random_model()
    rows, values = ratings_of(model, 11)
    fold_in = FoldIn(model)
    one, other = fold_in.fold_in(rows, values), fold_in.fold_in(rows[::-1], values[::-1])
    np.testing.assert_allclose(one.factors, other.factors, rtol=1e-5, atol=1e-6)


@pytest.fixture
def partly_rated():
    """Four items, the last never rated; biases of the rated ones have mean 0.2 and variance 0.06."""
    return model_of(np.eye(4), item_bias=[-0.1, 0.2, 0.5, 9.0], item_counts=[3, 1, 2, 0])


def test_an_item_outside_the_model_gets_the_average_items_effect_and_more_uncertainty(partly_rated):
    fold_in = FoldIn(partly_rated)
    user = fold_in.fold_in([0], [4.0])
    predicted, variances = fold_in.predict(user, [-1, 3])
    assert predicted == pytest.approx([3.0 + user.bias + 0.2] * 2)
    assert variances == pytest.approx([0.5 + user.covariance()[0, 0] + 0.06] * 2)


def test_a_rating_of_an_item_outside_the_model_speaks_of_the_bias_alone(partly_rated):
    user = FoldIn(partly_rated).fold_in([-1], [5.0])
    # prior variance 1, rating variance 0.5 + 0.06, seen 5 - 3 - 0.2
    assert user.bias == pytest.approx(1.8 / (1 + 0.56))
    assert user.factors == pytest.approx(np.zeros(4))


def test_fold_in_works_on_read_only_maps(tmp_path):
    model = random_model()
    for name, array in model.arrays().items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = FactorModel.from_arrays({path.stem: np.load(path, mmap_mode="r") for path in tmp_path.glob("*.npy")})
    rows, values = ratings_of(model, 9)
    assert np.array_equal(FoldIn(mapped).fold_in(rows, values).factors, FoldIn(model).fold_in(rows, values).factors)


def test_a_prior_without_spread_in_some_direction_can_be_used():
    prior = UserPrior(np.array([0.5, 0.0, 0.0]), np.diag([1.0, 1.0, 0.0]))
    user = FoldIn(model_of(np.eye(2), prior=prior)).fold_in([0, 1], [5.0, 1.0])
    assert user.factors[1] == pytest.approx(0.0, abs=1e-6)
    assert np.isfinite(user.bias)


@pytest.mark.parametrize(
    ("rows", "values", "what"),
    [
        ([40], [3.0], "item_rows holds row 40"),
        ([-2], [3.0], "item_rows holds row -2"),
        ([1, 2], [3.0], "equal lengths"),
        ([1], [np.nan], "values holds nan"),
    ],
)
def test_ratings_that_cannot_be_are_refused(rows, values, what):
    with pytest.raises(InvalidArray, match=what):
        FoldIn(random_model()).fold_in(rows, values)


def test_an_interval_widens_with_uncertainty_and_with_confidence():
    values, variances = np.array([3.0, 3.0], np.float32), np.array([1.0, 4.0], np.float32)
    lower, upper = gaussian_interval(values, variances, 0.9)
    assert upper - values == pytest.approx([1.6449, 3.2897], abs=1e-4)
    assert values - lower == pytest.approx(upper - values)
    assert gaussian_interval(values, variances, 0.5)[1][0] < upper[0]


def test_the_model_is_left_as_it_was():
    model = random_model()
    digest = model.digest()
    fold_in = FoldIn(dataclasses.replace(model))
    fold_in.predict(fold_in.fold_in([1, 2], [3.0, 4.0]), [0, -1])
    assert model.digest() == digest


# Against the mean of a posterior


def averaged_model():
    plain = random_model()
    return dataclasses.replace(plain, posterior=random_posterior(plain))


def test_implicit_feedback_shifts_the_prior_and_item_uncertainty_widens_the_noise():
    model = averaged_model()
    posterior = model.posterior
    items, values = np.array([3, 8, 20]), np.array([4.0, 2.5, 5.0])
    n, population = 3, model.user_prior.mean
    implicit_mean = posterior.implicit_intercept + posterior.implicit_factors[items].sum(axis=0) / np.sqrt(n + DAMPING)
    implicit_mean = implicit_mean + np.log(n + DAMPING) * posterior.implicit_count_slope
    prior_mean = population + n / (n + DAMPING) * (implicit_mean - population)
    weight = n / (n + IMPLICIT_RATINGS)
    precision = (1 - weight) * np.linalg.inv(model.user_prior.covariance)
    precision = precision + weight * np.linalg.inv(posterior.implicit_covariance)
    y = np.hstack([np.ones((3, 1)), model.item_factors[items]])
    w = 1 / (model.noise_variance * posterior.item_noise[items])
    A = precision + (y * w[:, None]).T @ y
    x = np.linalg.solve(A, precision @ prior_mean + (y * w[:, None]).T @ (values - model.mean - model.item_bias[items]))
    user = FoldIn(model).fold_in(items, values)
    np.testing.assert_allclose([user.bias, *user.factors], x, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(user.covariance(), np.linalg.inv(A), rtol=1e-4, atol=1e-7)


def test_a_user_without_ratings_has_the_population_mean_whatever_the_implicit_prior():
    model = averaged_model()
    user = FoldIn(model).fold_in([], [])
    np.testing.assert_allclose([user.bias, *user.factors], model.user_prior.mean, atol=1e-5)


def test_a_user_who_rates_at_random_has_wider_intervals_than_one_who_rates_as_predicted():
    model = averaged_model()
    fold_in, items = FoldIn(model), np.arange(40, dtype=np.int32)
    steady = fold_in.fold_in(items, model.mean + model.item_bias[items])
    wild = fold_in.fold_in(items, model.mean + model.item_bias[items] + 3.0 * (-1.0) ** items)
    assert steady.noise_scale < 1 < wild.noise_scale
    narrow, wide = (fold_in.predict(user, [5])[1][0] for user in (steady, wild))
    assert narrow < wide


@pytest.mark.parametrize("k", [1, 6, 64])
@pytest.mark.parametrize("n_unknown", [0, 3])
def test_the_noise_of_a_user_is_the_expected_square_of_the_residuals(k, n_unknown):
    plain = random_model(n_items=200, k=k)
    model = dataclasses.replace(plain, posterior=random_posterior(plain))
    items, values = ratings_of(model, 30)
    items[:n_unknown] = -1
    user = FoldIn(model).fold_in(items, values)
    rows, known = items[n_unknown:], values[n_unknown:]
    y = np.hstack([np.ones((rows.size, 1)), model.item_factors[rows]])
    left = known - model.mean - model.item_bias[rows] - y @ [user.bias, *user.factors]
    uncertainty = np.einsum("if,fg,ig->i", y, user.covariance(), y)
    squared = ((left**2 + uncertainty) / model.posterior.item_noise[rows]).sum() / model.noise_variance
    assert user.noise_scale == pytest.approx((NOISE_RATINGS + squared) / (NOISE_RATINGS + rows.size), rel=1e-5)


@pytest.mark.parametrize("n_rated", [0, 1, 25])
@pytest.mark.parametrize("has_posterior", [False, True])
def test_predictions_with_intervals_are_those_made_one_after_the_other(n_rated, has_posterior):
    plain = random_model()
    model = dataclasses.replace(plain, posterior=random_posterior(plain)) if has_posterior else plain
    fold_in, items = FoldIn(model), np.array([7, -1, *range(40)], np.int32)
    user = fold_in.fold_in(*ratings_of(model, n_rated))
    values, variances = fold_in.predict(user, items)
    for level in (INTERVAL_LEVEL, 0.5):
        expected = np.array([values, *fold_in.interval(user, items, values, variances, level)])
        np.testing.assert_allclose(fold_in.with_intervals(user, items, level), expected, rtol=1e-6, atol=1e-6)


def test_intervals_of_rows_outside_the_model_are_refused():
    fold_in = FoldIn(averaged_model())
    for rows in ([0, 40_000], [-2]):
        with pytest.raises(InvalidArray, match="there are"):
            fold_in.with_intervals(fold_in.fold_in([], []), np.array(rows, np.int32))


def test_calibrated_intervals_contain_each_other_by_level_and_their_prediction():
    model = averaged_model()
    fold_in = FoldIn(model)
    user = fold_in.fold_in([1, 2, 3], [4.0, 5.0, 3.0])
    values, variances = fold_in.predict(user, [7, -1])
    inner = fold_in.interval(user, [7, -1], values, variances, 0.5)
    outer = fold_in.interval(user, [7, -1], values, variances, 0.9)
    assert (outer[0] < inner[0]).all()
    assert (inner[0] < values).all()
    assert (values < inner[1]).all()
    assert (inner[1] < outer[1]).all()
