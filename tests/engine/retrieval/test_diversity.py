import numpy as np
import pytest

from app.engine.arrays import InvalidArray
from app.engine.retrieval.diversity import diverse_order

TWINS = np.array([[1, 0], [1, 0], [0, 1], [0.6, 0.8]], np.float32)
"""The second points where the first does, the third away from it."""
FALLING = np.array([5.0, 4.9, 4.0, 3.0], np.float32)


def naive(scores, factors, diversity, n):
    """Maximal marginal relevance as it is written down."""
    relevance = (scores - scores[-1]) / (scores[0] - scores[-1])
    unit = factors / np.linalg.norm(factors, axis=1, keepdims=True)
    chosen = [0]
    while len(chosen) < n:
        left = [i for i in range(len(scores)) if i not in chosen]
        values = [(1 - diversity) * relevance[i] - diversity * max(unit[i] @ unit[j] for j in chosen) for i in left]
        chosen.append(left[int(np.argmax(values))])
    return chosen


def test_without_diversity_the_list_is_the_plain_one():
    assert diverse_order(FALLING, TWINS, 0.0, 3).tolist() == [0, 1, 2]


def test_a_twin_of_what_is_listed_gives_way_to_something_else():
    assert diverse_order(FALLING, TWINS, 0.5, 3).tolist() == [0, 2, 1]


def test_nothing_but_diversity_takes_what_is_least_like_the_list():
    assert diverse_order(FALLING, TWINS, 1.0, 4).tolist() == [0, 2, 3, 1]


@pytest.mark.parametrize("diversity", [0.1, 0.4, 0.7, 1.0])
def test_the_list_is_that_of_the_definition(diversity):
    rng = np.random.default_rng(3)
    scores = np.sort(rng.normal(4, 0.3, 60).astype(np.float32))[::-1]
    factors = rng.normal(0, 1, (60, 5)).astype(np.float32)
    assert diverse_order(scores, factors, diversity, 25).tolist() == naive(scores, factors, diversity, 25)


def test_a_longer_list_begins_with_the_shorter_one():
    rng = np.random.default_rng(4)
    scores, factors = np.sort(rng.normal(size=40).astype(np.float32))[::-1], rng.normal(size=(40, 3))
    long, short = (diverse_order(scores, factors.astype(np.float32), 0.6, n).tolist() for n in (40, 12))
    assert long[:12] == short
    assert sorted(long) == list(range(40))


def test_more_diversity_makes_a_list_less_alike():
    rng = np.random.default_rng(5)
    scores, factors = np.sort(rng.normal(size=200).astype(np.float32))[::-1], rng.normal(size=(200, 4))

    def alikeness(diversity):
        q = factors[diverse_order(scores, factors.astype(np.float32), diversity, 10)]
        unit = q / np.linalg.norm(q, axis=1, keepdims=True)
        return (unit @ unit.T)[np.triu_indices(10, 1)].mean()

    found = [alikeness(diversity) for diversity in (0.0, 0.3, 0.9)]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_equal_scores_and_vectors_without_direction_are_no_trouble(n):
    order = diverse_order(np.full(3, 4.0, np.float32), np.zeros((3, 2), np.float32), 0.5, n)
    assert order.tolist() == [0, 1, 2][:n]


def test_diversity_outside_0_to_1_is_refused():
    with pytest.raises(InvalidArray, match="diversity"):
        diverse_order(FALLING, TWINS, 1.5, 2)
