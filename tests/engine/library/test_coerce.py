import numpy as np
import pytest

from app.engine.arrays import InvalidArray
from app.engine.library.coerce import entries_of, triples_of

MATRIX = np.array([[1.0, np.nan], [np.nan, 4.0]])


class Table:
    """A table as pandas and Polars have it."""

    def __init__(self, **columns: list[object]) -> None:
        self.columns = list(columns)
        self._columns = columns

    def __getitem__(self, name: str) -> list[object]:
        return self._columns[name]


def test_entries_of_a_matrix_come_row_by_row_with_its_shape() -> None:
    rows, columns, values, shape = entries_of(MATRIX)
    assert (rows.tolist(), columns.tolist(), values.tolist(), shape) == ([0, 1], [0, 1], [1.0, 4.0], (2, 2))


@pytest.mark.parametrize(
    "ratings",
    [
        MATRIX,
        [(0, 0, 1.0), (1, 1, 4.0)],
        Table(value=[1.0, 4.0], item_id=[0, 1], user_id=[0, 1]),
        Table(who=[0, 1], what=[0, 1], stars=[1.0, 4.0]),
    ],
    ids=["matrix", "triples", "named columns", "first three columns"],
)
def test_all_forms_of_ratings_give_the_same_triples(ratings: object) -> None:
    users, items, values = triples_of(ratings)
    assert (users, items, values.tolist()) == (["0", "1"], ["0", "1"], [1.0, 4.0])


def test_a_table_of_two_columns_is_refused() -> None:
    with pytest.raises(InvalidArray, match="need three columns"):
        triples_of(Table(user_id=[1], item_id=[2]))
