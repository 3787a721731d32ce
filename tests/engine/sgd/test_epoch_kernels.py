import numpy as np
import pytest

from app.engine.sgd.epoch_kernels import copy_rows, draw, sum_squared_errors


def test_rows_are_copied_times_a_factor_and_an_unknown_row_is_zero():
    source, target = np.float32([[1, 2], [3, 4]]), np.full((3, 4), 9, np.float32)
    copy_rows(0, 3, 0, source, np.int32([1, -1, 0]), 2.0, target)
    assert target.tolist() == [[6, 8, 9, 9], [0, 0, 0, 0], [2, 4, 9, 9]]


def test_random_vectors_have_the_deviation_asked_for_and_do_not_depend_on_the_parts():
    whole, parts = np.zeros((4000, 16), np.float32), np.zeros((4000, 16), np.float32)
    draw(0, 4000, 0, 7, 10, 0.5, whole)
    for part, (start, end) in enumerate([(1000, 2500), (0, 1000), (2500, 4000)]):
        draw(start, end, part, 7, 10, 0.5, parts)
    assert np.array_equal(whole, parts)
    assert whole[:, :10].std() == pytest.approx(0.5, rel=0.02)
    assert whole[:, :10].mean() == pytest.approx(0, abs=0.01)
    assert not whole[:, 10:].any()


def test_the_squared_error_of_a_part_is_that_on_paper():
    ratings = (np.int32([0, 1]), np.int32([1, 0]), np.float32([4, 2]))
    factors = np.zeros((2, 16), np.float32), np.zeros((2, 16), np.float32)
    factors[0][:, 0], factors[1][:, 0] = [1, 2], [3, 5]
    biases = np.float32([0.1, 0.2]), np.float32([0.3, 0.4])
    positions, sums = (np.int32([1, 0]), np.int32([0, 1])), np.zeros(2)
    sum_squared_errors(0, 2, 1, ratings, 2.0, 0.5, positions, (*factors, *biases), sums)
    first, second = 4 / 2 - 0.5 - 0.2 - 0.4 - 2 * 5, 2 / 2 - 0.5 - 0.1 - 0.3 - 1 * 3
    assert sums.tolist() == pytest.approx([0, first**2 + second**2], rel=1e-5)
