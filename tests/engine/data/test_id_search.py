import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.engine.data.id_search import look_up
from app.engine.data.ratings import Vocabulary


@given(st.sets(st.text(max_size=4), max_size=20), st.lists(st.text(max_size=4), max_size=5))
def test_every_id_is_found_at_its_row_and_others_at_none(ids, queries):
    vocabulary = Vocabulary.of(ids)
    in_order = sorted(ids, key=str.encode)
    assert vocabulary.rows_of(in_order).tolist() == list(range(len(ids)))
    expected = [in_order.index(query) if query in ids else -1 for query in queries]
    assert vocabulary.rows_of(queries).tolist() == expected


def test_keys_beyond_the_table_have_no_row():
    assert look_up(np.array([7, -1, 5], np.int32), np.array([0, 2, 3, -1])).tolist() == [7, 5, -1, -1]
