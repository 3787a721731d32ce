"""Shares of ratings add up to the score, and each is what the rating changes."""

import dataclasses

import numpy as np
import pytest

from app.engine.fold_in.explanation import explain, largest_shares
from app.engine.fold_in.fold_in import FoldIn
from app.engine.losses.declare import declare
from tests.engine.worlds import random_model, random_posterior

RATED = np.array([3, 17, 8, -1, 30, 21], np.int32)
VALUES = np.array([5.0, 1.0, 3.5, 4.0, 2.0, 4.5], np.float32)
LISTED = np.array([0, 5, 17, -1, 39], np.int32)


def _average():
    model = random_model()
    return dataclasses.replace(model, posterior=random_posterior(model))


def _declared(text, **options):
    loss = declare(text, rating_range=(0.0, 6.0), **options)
    return dataclasses.replace(random_model(), loss=loss, temperature=0.4, mean=loss.score_of(3.0))


def _explained(model, rated=RATED, values=VALUES):
    fold_in = FoldIn(model)
    user = fold_in.fold_in(rated, values)
    return fold_in, user, explain(fold_in, user, LISTED, rated, values)


@pytest.mark.parametrize(
    "model",
    [
        random_model(),
        _average(),
        _declared("huber"),
        _declared("log(cosh(r - r_hat))"),
        _declared("squared", link="sigmoid"),
    ],
    ids=["squared", "average", "huber", "log-cosh", "sigmoid"],
)
def test_the_shares_and_the_prior_part_add_up_to_the_score(model):
    fold_in, user, explanation = _explained(model)
    assert explanation.shares.shape == (5, 6)
    assert explanation.learned == pytest.approx(np.zeros(5), abs=1e-4)
    total = explanation.prior + explanation.shares.sum(axis=1)
    assert total == pytest.approx(fold_in.scores(user, LISTED)[0], abs=1e-4)


@pytest.mark.parametrize("model", [random_model(), _average()], ids=["squared", "average"])
def test_a_share_is_linear_in_the_rating_and_no_other_share_moves_with_it(model):
    """Half a star more on one item adds as much for each half, and only to its own share."""
    _, _, before = _explained(model)
    for more in (0.5, 1.0):
        values = VALUES.copy()
        values[1] += more
        _, _, after = _explained(model, values=values)
        moved = after.shares - before.shares
        assert np.delete(moved, 1, axis=1) == pytest.approx(np.zeros((5, 5)), abs=1e-9)
        assert after.prior == pytest.approx(before.prior, abs=1e-5)
        assert moved[:, 1] == pytest.approx(after.scores - before.scores, abs=1e-5)
        assert np.abs(moved[:, 1]).max() > 1e-3


def test_a_rating_equal_to_its_expectation_adds_nothing():
    model = random_model()
    expected = model.mean + model.item_bias[3]
    _, _, explanation = _explained(model, np.array([3], np.int32), np.array([expected], np.float32))
    assert explanation.shares == pytest.approx(np.zeros((5, 1)), abs=1e-6)


def test_an_implicit_factor_belongs_to_the_share_of_its_item():
    """Changing it changes the share of that item alone."""
    model = _average()
    factors = model.posterior.implicit_factors.copy()
    factors[3] += 1.0
    shifted = dataclasses.replace(model, posterior=dataclasses.replace(model.posterior, implicit_factors=factors))
    _, _, before = _explained(model)
    _, _, after = _explained(shifted)
    assert np.delete(after.shares - before.shares, 0, axis=1) == pytest.approx(np.zeros((5, 5)), abs=1e-9)
    assert np.abs(after.shares - before.shares)[:, 0].max() > 0.01
    assert after.prior == pytest.approx(before.prior, abs=1e-5)


def test_what_a_trained_vector_adds_is_a_part_of_its_own():
    model = _average()
    fold_in = FoldIn(model)
    user = fold_in.fold_in(RATED, VALUES)
    trained = dataclasses.replace(user, bias=float(model.user_bias[2]), factors=model.user_factors[2])
    folded = explain(fold_in, user, LISTED, RATED, VALUES)
    explanation = explain(fold_in, trained, LISTED, RATED, VALUES)
    assert explanation.shares == pytest.approx(folded.shares)
    assert explanation.prior == pytest.approx(folded.prior, abs=1e-5)
    assert explanation.learned == pytest.approx(explanation.scores - folded.scores, abs=1e-4)
    assert np.abs(explanation.learned).max() > 0.01


def test_the_largest_shares_come_first_whichever_way_they_point():
    _, _, explanation = _explained(random_model())
    nameable = np.ones(6, np.bool_)
    places = largest_shares(explanation.shares, 4, nameable)
    assert places.shape == (5, 4)
    sizes = np.take_along_axis(np.abs(explanation.shares), places, axis=1)
    assert (np.diff(sizes) <= 0).all()
    assert largest_shares(explanation.shares, 100, nameable).shape == (5, 6)


@pytest.mark.parametrize("n", [0, 1, 3, 40, 100])
def test_the_largest_shares_are_those_of_a_stable_sort_among_what_may_be_named(n):
    rng = np.random.default_rng(n)
    shares, may_be_named = rng.integers(-5, 6, (20, 60)).astype(np.float64), rng.random(60) < 0.7
    named = np.flatnonzero(may_be_named)
    order = np.argsort(-np.abs(shares[:, named]), axis=1, kind="stable")
    assert largest_shares(shares, n, may_be_named).tolist() == named[order[:, :n]].tolist()


def test_a_user_without_ratings_has_a_score_of_prior_alone():
    model = random_model()
    _, _, explanation = _explained(model, np.zeros(0, np.int32), np.zeros(0, np.float32))
    assert explanation.shares.shape == (5, 0)
    assert explanation.prior == pytest.approx(explanation.scores)
