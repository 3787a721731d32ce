import gc
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from app.engine.arrays import InvalidArray, evenly_spaced, mapped, rows, starts_of, vector32


def test_whole_numbers_of_any_width_become_rows():
    made = rows(np.array([3, 1, 2], np.int64))
    assert made.dtype == np.int32
    assert made.tolist() == [3, 1, 2]


def test_an_empty_list_is_no_rows():
    assert rows([]).shape == (0,)


@pytest.mark.parametrize("values", [[0.5], [2**31], [[1, 2]], ["a"]], ids=["fraction", "too large", "matrix", "text"])
def test_what_would_not_survive_as_rows_is_refused(values):
    with pytest.raises(InvalidArray, match=r"^item_rows "):
        rows(values, "item_rows")


def test_a_number_that_is_not_finite_is_named_with_its_place():
    with pytest.raises(InvalidArray, match="values holds nan at position 1"):
        vector32([1.0, float("nan")])


def test_files_are_mapped_by_many_threads_at_once(tmp_path: Path):
    file = tmp_path / "one.npy"
    np.save(file, np.arange(7))

    def let_others_run(_phase: str, _facts: object) -> None:
        time.sleep(0)

    before = gc.get_threshold()
    gc.callbacks.append(let_others_run)  # collections begin within the parsing of a header
    gc.set_threshold(3)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: int(mapped(file).sum()), range(50)))
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(let_others_run)
    assert set(found) == {21}


def test_starts_are_where_groups_that_lie_end_to_end_begin():
    assert starts_of(np.array([2, 0, 3])).tolist() == [0, 2, 2, 5]


def test_a_sample_of_rows_is_evenly_spaced():
    assert evenly_spaced(np.arange(100), 5).tolist() == [0, 24, 49, 74, 99]
    assert evenly_spaced(np.arange(100, dtype=np.int32), 3).tolist() == [0, 49, 99]
    assert evenly_spaced(np.arange(3), 5).tolist() == [0, 1, 2]
    assert evenly_spaced(np.arange(3), 3).tolist() == [0, 1, 2]
