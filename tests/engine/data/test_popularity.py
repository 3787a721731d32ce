import numpy as np
import pytest

from app.engine.data.popularity import learned_shrinkage, shrunken_means


def _counted(items, values):
    counts = np.bincount(items)
    means = np.bincount(items, values) / np.maximum(counts, 1)
    return counts.astype(np.int32), means.astype(np.float32), float(values.mean()), float(values.var())


@pytest.mark.parametrize(("between", "expected"), [(0.5, 4.0), (1.0, 1.0), (0.25, 16.0)])
def test_shrinkage_is_the_ratio_of_variances_within_and_between_items(between, expected):
    rng = np.random.default_rng(0)
    items = np.repeat(np.arange(500), 40)
    values = rng.normal(0, between, 500)[items] + rng.normal(0, 1.0, items.size)
    assert learned_shrinkage(*_counted(items, values)) == pytest.approx(expected, rel=0.15)


def test_where_items_do_not_differ_only_many_ratings_count():
    rng = np.random.default_rng(1)
    items = np.repeat(np.arange(200), 20)
    assert learned_shrinkage(*_counted(items, rng.normal(0, 1.0, items.size))) == 100.0


def test_too_few_ratings_to_learn_from_leave_the_usual_shrinkage():
    assert learned_shrinkage(*_counted(np.array([0, 1, 2]), np.array([1.0, 5.0, 3.0]))) == 5.0


def test_learned_shrinkage_predicts_new_ratings_better_than_more_or_less_of_it():
    """Half of the ratings of items with few of them tell the mean of the other half."""
    rng = np.random.default_rng(2)
    counts = rng.integers(2, 12, 800)
    items = np.repeat(np.arange(800), counts)
    values = rng.normal(3.5, 0.4, 800)[items] + rng.normal(0, 1.0, items.size)
    is_seen = rng.random(items.size) < 0.5
    seen = _counted(np.append(items[is_seen], 799), np.append(values[is_seen], 3.5))
    learned = learned_shrinkage(*seen)

    def error(shrinkage):
        guesses = shrunken_means(seen[0], seen[1], seen[2], shrinkage)
        guess = np.where(np.isnan(guesses), seen[2], guesses)[items[~is_seen]]
        return float(((guess - values[~is_seen]) ** 2).mean())

    assert error(learned) < min(error(learned / 4), error(learned * 4), error(0.01))


def test_an_item_is_drawn_to_the_mean_the_more_the_fewer_its_ratings():
    means = shrunken_means(np.array([1, 100, 0], np.int32), np.full(3, 5.0, np.float32), 3.0, 4.0)
    assert means[:2] == pytest.approx([3.4, (12 + 500) / 104])
    assert np.isnan(means[2])
