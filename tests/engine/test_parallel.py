from concurrent.futures import ThreadPoolExecutor

import pytest

from app.engine.parallel import in_parts, n_parts_of, run_all, usable_cores


@pytest.mark.parametrize(("n", "n_parts"), [(0, 1), (4095, 1), (8192, 2), (10**9, 16)])
def test_the_number_of_parts_depends_on_the_size_alone(n, n_parts):
    assert n_parts_of(n) == n_parts


def test_parts_cover_everything_once_and_in_order():
    parts = []
    with ThreadPoolExecutor(1) as pool:
        in_parts(pool, lambda start, end, part, name: parts.append((start, end, part, name)), 1000, "x", least=300)
    assert parts == [(0, 333, 0, "x"), (333, 666, 1, "x"), (666, 1000, 2, "x")]


def test_an_error_in_one_call_is_raised():
    with ThreadPoolExecutor(2) as pool, pytest.raises(ZeroDivisionError):
        run_all(pool, lambda x: 1 // x, [(1,), (0,)])


def test_there_is_at_least_one_core():
    assert usable_cores() >= 1
