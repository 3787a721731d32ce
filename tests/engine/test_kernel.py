import logging
import sys

import numpy as np
import pytest

from app.engine.kernel import kernel_source, load_kernel
from app.engine.lanes import aligned_matrix, padded
from app.engine.losses.base import Loss
from app.engine.losses.catalog import SQUARED
from tests.conftest import KERNELS


def learn(loss, n_columns, *, explicit_vectors, sweeps=3):
    """A few sweeps over one block of 400 ratings; gives all four parameter arrays and the errors."""
    rng = np.random.default_rng(0)
    factors = [aligned_matrix(20, n_columns), aligned_matrix(30, n_columns)]
    for matrix in factors:
        matrix[:] = rng.normal(0, 0.3, matrix.shape)
    biases = [np.zeros(20, np.float32), np.zeros(30, np.float32)]
    users, items = np.divmod(rng.permutation(600)[:400].astype(np.int32), np.int32(30))
    values = rng.normal(0, 1, 400).astype(np.float32)
    errors = np.zeros(1)
    kernel = load_kernel(loss, n_columns, KERNELS, explicit_vectors=explicit_vectors)
    for _ in range(sweeps):
        blocks, turn = np.zeros(1, np.int64), np.zeros(1, np.int64)
        block_starts = np.array([0, 400], np.int64)
        kernel(users, items, values, block_starts, blocks, turn, 0.1, 0.05, 0.99, 0.98, *factors, *biases, errors)
    return [*factors, *biases, errors]


@pytest.mark.parametrize("n_columns", [16, 32, 48, 64])
def test_the_vector_steps_agree_with_the_plain_loop(n_columns):
    vectors = learn(SQUARED, n_columns, explicit_vectors=True)
    plain = learn(SQUARED, n_columns, explicit_vectors=False)
    for fast, reference in zip(vectors, plain, strict=True):
        np.testing.assert_allclose(fast, reference, rtol=2e-4, atol=2e-5)


def test_one_step_is_the_one_on_paper():
    kernel = load_kernel(SQUARED, 16, KERNELS)
    p, q = aligned_matrix(1, 16), aligned_matrix(1, 16)
    p[0, :2], q[0, :2] = [0.5, 0.2], [1.0, -0.5]
    b_u, b_i = np.array([0.1], np.float32), np.array([-0.3], np.float32)
    errors, row = np.zeros(1), np.zeros(1, np.int32)
    starts, blocks, turn = np.array([0, 1], np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64)
    kernel(row, row, np.array([4], np.float32), starts, blocks, turn, 3.0, 0.1, 0.9, 0.8, p, q, b_u, b_i, errors)
    error = 4 - (3.0 + 0.1 - 0.3 + 0.5 * 1.0 - 0.2 * 0.5)
    assert p[0, :3].tolist() == pytest.approx([0.9 * 0.5 + 0.1 * error, 0.9 * 0.2 - 0.1 * error * 0.5, 0])
    assert q[0, :3].tolist() == pytest.approx([0.9 * 1.0 + 0.1 * error * 0.5, -0.9 * 0.5 + 0.1 * error * 0.2, 0])
    assert (b_u[0], b_i[0]) == pytest.approx((0.8 * 0.1 + 0.1 * error, -0.8 * 0.3 + 0.1 * error))
    assert errors[0] == pytest.approx(error**2)


def test_another_loss_goes_through_the_same_template():
    absolute_like = Loss(name="log_cosh", error="log(cosh(r - r_hat))")
    robust = learn(absolute_like, 16, explicit_vectors=True)
    squared = learn(SQUARED, 16, explicit_vectors=True)
    assert np.isfinite(robust[0]).all()
    assert not np.allclose(robust[0], squared[0])


def test_rows_are_padded_to_sixteen_lanes_on_a_cache_line():
    assert [padded(k) for k in (1, 16, 17, 64)] == [16, 16, 32, 64]
    assert all(aligned_matrix(n, 16).ctypes.data % 64 == 0 for n in (1, 3, 1000))


@pytest.fixture
def forgotten(monkeypatch):
    """A process that has loaded no kernel yet."""
    for name in [name for name in sys.modules if name.startswith("palate_kernels.")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("forgotten")
def test_a_damaged_kernel_file_is_written_again(tmp_path):
    load_kernel(SQUARED, 16, tmp_path)
    (kernel_file,) = tmp_path.glob("sgd_*.py")
    whole = kernel_file.read_text()
    kernel_file.write_text(whole[: len(whole) // 2])
    for name in [name for name in sys.modules if name.startswith("palate_kernels.")]:
        del sys.modules[name]
    load_kernel(SQUARED, 16, tmp_path)
    assert kernel_file.read_text() == whole
    assert whole.endswith(kernel_source(SQUARED, 16))


@pytest.mark.usefixtures("forgotten")
def test_a_folder_that_cannot_hold_kernels_costs_a_warning_only(tmp_path, caplog):
    (tmp_path / "occupied").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        kernel = load_kernel(SQUARED, 16, tmp_path / "occupied" / "kernels")
    assert callable(kernel)
    assert [record.getMessage()[:27] for record in caplog.records] == ["kernels cannot be kept in /"]
