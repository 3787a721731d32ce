from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from app.engine.data.ratings import Ratings
from app.engine.losses.base import Loss
from app.engine.losses.catalog import SQUARED
from app.engine.sgd.grid import build_grid
from app.engine.sgd.kernel_cache import load_kernel
from app.engine.simd.lanes import aligned_matrix
from tests.conftest import KERNELS
from tests.engine.worlds import planted


def learn(loss, n_columns, *, explicit_vectors, n_ratings=400, sweeps=3):
    """A few sweeps over ratings in a grid; gives all four parameter arrays and the sum of squared errors."""
    rng = np.random.default_rng(0)
    pairs = np.sort(rng.permutation(20 * 30)[:n_ratings])
    values = rng.normal(0, 1, n_ratings).astype(np.float32)
    ratings = Ratings((pairs // 30).astype(np.int32), (pairs % 30).astype(np.int32), values, 20, 30)
    with ThreadPoolExecutor(1) as pool:
        grid = build_grid(ratings, n_columns, pool, 1)
    factors = [aligned_matrix(20, n_columns), aligned_matrix(30, n_columns)]
    for matrix in factors:
        matrix[:] = rng.normal(0, 0.3, matrix.shape)
    biases = [np.zeros(20, np.float32), np.zeros(30, np.float32)]
    errors = np.zeros(grid.n_groups**2)
    kernel = load_kernel(loss, n_columns, KERNELS, explicit_vectors=explicit_vectors)
    for _ in range(sweeps):
        kernel(*in_order(grid, range(grid.n_groups)), -1, 0.1, 0.2, 0.4, (*factors, *biases), errors)
    return [*factors, *biases, errors]


def in_order(grid, strata, learning_rate=0.05):
    """The kernel's first arguments: the grid, a schedule of these strata, and no progress."""
    blocks = np.concatenate([grid.stratum(number) for number in strata])
    rates = np.full(len(strata), learning_rate, np.float32)
    progress = np.zeros(1 + 2 * grid.n_groups, np.int64)
    return grid.kernel_arguments, (blocks, rates), progress


@pytest.mark.parametrize("n_columns", [16, 32, 48, 64, 128, 144])
@pytest.mark.parametrize("n_ratings", [1, 7, 90, 600], ids=["one rating", "few", "short bundles", "all pairs"])
def test_the_vector_steps_agree_with_the_plain_loop(n_columns, n_ratings):
    vectors = learn(SQUARED, n_columns, explicit_vectors=True, n_ratings=n_ratings)
    plain = learn(SQUARED, n_columns, explicit_vectors=False, n_ratings=n_ratings)
    for fast, reference in zip(vectors, plain, strict=True):
        np.testing.assert_allclose(fast, reference, rtol=1e-3, atol=5e-5)


def one_block(users, items, values, n_streams, *, n_bundles=0, n_alone=0, lengths=(1,)):
    """A grid of one block, written by hand."""
    bundle_users = np.zeros((n_bundles + n_alone, n_streams), np.int32)
    bundle_users.flat[: len(users)] = users
    table = np.array([[0, 0, n_bundles, n_alone]], np.int64)
    flags = np.zeros(n_bundles + n_alone, np.bool_)
    ratings = (np.array([*items, 0, 0, 0], np.int32), np.array([*values, 0, 0, 0], np.float32))
    schedule = (np.zeros(1, np.int64), np.full(1, 0.1, np.float32))
    return (bundle_users, np.array(lengths, np.int32), flags, *ratings, table), schedule, np.zeros(3, np.int64)


def test_one_step_is_the_one_on_paper():
    kernel = load_kernel(SQUARED, 16, KERNELS)
    p, q = aligned_matrix(1, 16), aligned_matrix(1, 16)
    p[0, :2], q[0, :2] = [0.5, 0.2], [1.0, -0.5]
    b_u, b_i = np.array([0.1], np.float32), np.array([-0.3], np.float32)
    errors = np.zeros(1)
    kernel(*one_block([0], [0], [4], 4, n_alone=1), -1, 3.0, 1.0, 2.0, (p, q, b_u, b_i), errors)
    error = 4 - (3.0 + 0.1 - 0.3 + 0.5 * 1.0 - 0.2 * 0.5)
    assert p[0, :3].tolist() == pytest.approx([0.9 * 0.5 + 0.1 * error, 0.9 * 0.2 - 0.1 * error * 0.5, 0])
    assert q[0, :3].tolist() == pytest.approx([0.9 * 1.0 + 0.1 * error * 0.5, -0.9 * 0.5 + 0.1 * error * 0.2, 0])
    assert (b_u[0], b_i[0]) == pytest.approx((0.8 * 0.1 + 0.1 * error, -0.8 * 0.3 + 0.1 * error))
    assert errors[0] == pytest.approx(error**2)


def test_a_bundle_learns_one_rating_of_each_of_its_users_and_applies_half_of_the_users_decay_on_each_side():
    kernel = load_kernel(SQUARED, 16, KERNELS)
    p, q = aligned_matrix(4, 16), aligned_matrix(4, 16)
    p[:, 0], q[:, 0] = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    b_u, b_i = np.zeros(4, np.float32), np.zeros(4, np.float32)
    values = [1.0, -1.0, 0.5, 0.0]
    kernel(*one_block(range(4), range(4), values, 4, n_bundles=1), -1, 0.0, 1.0, 0.0, (p, q, b_u, b_i), np.zeros(1))
    half = 1 / (1 + 0.5 * 0.1)  # implicit steps of half the penalty: 0.9 of the vector is left, and a little more
    for user, (r, p_0, q_0) in enumerate(zip(values, [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0], strict=True)):
        error = r - half * p_0 * q_0
        assert p[user, 0] == pytest.approx(half * (half * p_0 + 0.1 * error * q_0), rel=1e-5)
        assert q[user, 0] == pytest.approx(0.9 * q_0 + 0.1 * error * half * p_0, rel=1e-5)
        assert (b_u[user], b_i[user]) == pytest.approx((0.1 * error, 0.1 * error), rel=1e-5)


def test_a_block_that_waits_too_long_is_returned_and_learned_later():
    with ThreadPoolExecutor(1) as pool:
        grid = build_grid(planted().ratings, 16, pool, 1)
    kernel = load_kernel(SQUARED, 16, KERNELS)
    n_users, n_items = grid.users.row_at.size, grid.items.row_at.size
    parameters = (
        aligned_matrix(n_users, 16),
        aligned_matrix(n_items, 16),
        *(np.zeros(n, np.float32) for n in (n_users, n_items)),
    )
    errors = np.full(grid.n_groups**2, -1.0)
    arguments = in_order(grid, range(grid.n_groups))
    progress, rest = arguments[-1], (0.0, 0.0, 0.0, parameters, errors)
    progress[0] = 3  # another caller has claimed the first three blocks and is not done
    waiting = kernel(*arguments, -1, *rest)
    assert waiting == grid.n_groups  # the first of stratum 1 shares its users with one that is not done
    progress[1 : 1 + 3] = progress[1 + grid.n_groups : 1 + grid.n_groups + 3] = 1
    assert kernel(*arguments, waiting, *rest) == -1
    assert np.count_nonzero(errors < 0) == 3


def test_another_loss_goes_through_the_same_template():
    absolute_like = Loss(name="log_cosh", error="log(cosh(r - r_hat))")
    robust = learn(absolute_like, 16, explicit_vectors=True)
    squared = learn(SQUARED, 16, explicit_vectors=True)
    assert np.isfinite(robust[0]).all()
    assert not np.allclose(robust[0], squared[0])
