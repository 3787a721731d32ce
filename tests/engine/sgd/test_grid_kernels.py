import numpy as np

from app.engine.sgd.grid_kernels import count_runs, sort_runs


def test_runs_are_counted_by_the_position_of_the_user_and_the_group_of_the_item():
    ratings = np.array([0, 3, 4]), np.int32([0, 1, 2, 1])  # three ratings of user row 0, one of user row 1
    runs = np.zeros((2, 2), np.int32)
    count_runs(0, 2, 0, ratings, np.int32([1, 0]), np.int32([0, 1, 1]), runs)
    assert runs.tolist() == [[0, 1], [1, 2]]


def test_runs_of_equal_length_are_chained_in_their_order():
    heads, following = sort_runs(np.int32([2, 3, 2, 0, 2]))
    assert heads.tolist() == [3, -1, 0, 1]
    assert following.tolist() == [2, -1, 4, -1, -1]
