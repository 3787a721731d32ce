import numpy as np
import pytest

from app.engine.arrays import InvalidArray
from app.engine.data.row_sets import RowSet


def of(*rows: int, n_rows: int = 130) -> RowSet:
    return RowSet.of(np.array(rows, np.int32), n_rows)


def test_a_set_has_its_members_once_and_in_order():
    members = of(129, 3, 64, 3, -1)
    assert members.rows().tolist() == [3, 64, 129]


def test_sets_are_joined_cut_and_taken_from_each_other():
    left, right = of(1, 64, 129), of(64, 65)
    assert (left | right).rows().tolist() == [1, 64, 65, 129]
    assert (left & right).rows().tolist() == [64]
    assert (left - right).rows().tolist() == [1, 129]


@pytest.mark.parametrize("n_rows", [0, 1, 63, 64, 65])
def test_everything_is_no_more_than_the_rows_there_are(n_rows):
    assert RowSet.full(n_rows).rows().tolist() == list(range(n_rows))


def test_rows_outside_and_sets_of_other_sizes_are_refused():
    with pytest.raises(InvalidArray, match="rows holds row 130"):
        of(130)
    with pytest.raises(InvalidArray, match="of 130 and of 5"):
        of(1) & of(1, n_rows=5)
