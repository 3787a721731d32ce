import pytest

from app.engine.search.space import InvalidSpace, parse_space
from app.engine.search.trials import Search, best_of
from tests.engine.search.world import trial


def test_a_grid_of_a_range_without_step_is_refused() -> None:
    with pytest.raises(InvalidSpace, match="needs a step or choices in a grid"):
        Search(space=parse_space({"learning_rate": {"low": 0.1, "high": 0.2}}), strategy="grid")


def test_the_best_is_the_lowest_complete_trial_and_the_first_of_equals() -> None:
    assert best_of([trial(0, None), trial(1, 2.0), trial(2, 1.0), trial(3, 1.0)]) == trial(2, 1.0)
    assert best_of([trial(0, None)]) is None
