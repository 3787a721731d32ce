import numpy as np

from app.engine.data.sorting import sort_by_first


def test_columns_are_sorted_by_the_first_and_equal_keys_stay_in_order():
    keys, others, values = (np.array(column) for column in ([2, 0, 2, 1], [10, 11, 12, 13], [1.0, 2.0, 3.0, 4.0]))
    result = np.empty(4, np.int32), np.empty(4, np.int32), np.empty(4, np.float32)
    sort_by_first((keys.astype(np.int32), others.astype(np.int32), values.astype(np.float32)), 3, result)
    assert [column.tolist() for column in result] == [[0, 1, 2, 2], [11, 13, 10, 12], [2.0, 4.0, 1.0, 3.0]]
