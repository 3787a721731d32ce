"""Folding in under a declared loss against a general optimiser that knows nothing of it but its value."""

import dataclasses

import numpy as np
import pytest

from app.engine.evaluation import errors_of
from app.engine.fold_in.fold_in import FoldIn
from app.engine.losses.catalog import ENTRIES
from app.engine.losses.declare import declare
from tests.engine.worlds import random_model

LOSSES = [
    *(declare(entry.name, rating_range=(0.0, 6.0)) for entry in ENTRIES if entry.name != "squared"),
    declare("abs(r - r_hat)**1.5"),
    declare("log(1 + (r - r_hat)**2)"),  # not convex
    declare("squared", link="sigmoid", rating_range=(0.0, 6.0)),  # not convex
    declare("huber", link="exp"),
]


def model_with(loss, temperature=0.4, seed=0):
    model = random_model(n_items=60, k=4, seed=seed)
    return dataclasses.replace(model, loss=loss, temperature=temperature, mean=loss.score_of(3.0))


def objective(model, rows, values, x):
    base = model.mean + model.item_bias[rows].astype(np.float64)
    y = np.hstack([np.ones((len(rows), 1)), model.item_factors[rows].astype(np.float64)])
    off = x - model.user_prior.mean
    prior = off @ np.linalg.inv(model.user_prior.covariance) @ off / 2
    return errors_of(model.loss, base + y @ x, values).sum() / model.temperature + prior


def searched(function, x, size=0.5):
    """Nelder-Mead, begun anew until it stands still (Lagarias et al. 1998): slow, and needs values alone."""
    best = function(x)
    for _ in range(30):
        corners = [x, *(x + size * step for step in np.eye(x.size))]
        values = [function(corner) for corner in corners]
        for _ in range(4000):
            order = np.argsort(values)
            corners, values = [corners[place] for place in order], [values[place] for place in order]
            if values[-1] - values[0] < 1e-13 * (1 + abs(values[0])):
                break
            centre = np.mean(corners[:-1], axis=0)
            tried = [centre + factor * (centre - corners[-1]) for factor in (1.0, 2.0, 0.5, -0.5)]
            found = [function(point) for point in tried]
            place = int(np.argmin(found))
            if found[place] < values[-1]:
                corners[-1], values[-1] = tried[place], found[place]
            else:
                corners = [corners[0], *((corner + corners[0]) / 2 for corner in corners[1:])]
                values = [values[0], *(function(corner) for corner in corners[1:])]
        x = corners[0]
        if best - values[0] < 1e-11 * (1 + abs(best)):
            return x, values[0]
        best = values[0]
    return x, best


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.error} {loss.link}")
@pytest.mark.parametrize("n", [1, 7, 25])
def test_a_folded_in_user_is_where_a_general_optimiser_ends(loss, n):
    model = model_with(loss, seed=n)
    rng = np.random.default_rng(n)
    rows, values = rng.permutation(60)[:n].astype(np.int32), rng.integers(1, 11, n) / 2
    user = FoldIn(model).fold_in(rows, values)
    found = np.array([user.bias, *user.factors])
    reached = objective(model, rows, values, found)
    _, there = searched(lambda x: objective(model, rows, values, x), found + rng.normal(0, 0.1, found.size))
    assert reached <= there + 1e-6 * (1 + abs(there))


def test_the_squared_error_by_newton_is_its_closed_form():
    squared = random_model(k=6)
    written_anew = declare("(r_hat - r)**2 / 2")
    assert not written_anew.is_squared
    same = dataclasses.replace(squared, loss=written_anew, temperature=squared.noise_variance)
    rows, values = np.array([3, -1, 17, 5], np.int32), np.array([4.0, 2.0, 1.0, 5.0], np.float32)
    closed, newton = FoldIn(squared).fold_in(rows, values), FoldIn(same).fold_in(rows, values)
    np.testing.assert_allclose([newton.bias, *newton.factors], [closed.bias, *closed.factors], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(newton.covariance(), closed.covariance(), rtol=1e-5)
    for asked in ([3, -1], [8, 9]):
        for one, other in zip(FoldIn(squared).predict(closed, asked), FoldIn(same).predict(newton, asked), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4)


def test_one_wild_rating_pulls_a_robust_user_less():
    def moved(loss):
        fold_in = FoldIn(model_with(loss))
        rows, honest = np.arange(20, dtype=np.int32), np.full(20, 3.0)
        wild = honest.copy()
        wild[0] = 60.0
        one, other = fold_in.fold_in(rows, honest), fold_in.fold_in(rows, wild)
        return abs(one.bias - other.bias) + np.abs(one.factors - other.factors).sum()

    assert moved(declare("huber")) < 0.2 * moved(declare("(r_hat - r)**2 / 2"))


def test_nobodys_ratings_give_the_prior_mean_whatever_the_loss():
    model = model_with(declare("logistic", rating_range=(0.0, 6.0)))
    user = FoldIn(model).fold_in([], [])
    assert [user.bias, *user.factors] == pytest.approx(model.user_prior.mean, abs=1e-6)


def test_the_doubt_behind_a_link_is_told_in_ratings():
    model = model_with(declare("squared", link="sigmoid", rating_range=(0.0, 6.0)))
    fold_in = FoldIn(model)
    user = fold_in.fold_in([], [])
    predicted, variances = fold_in.predict(user, np.arange(60))
    assert ((predicted > 0) & (predicted < 6)).all()
    _, of_scores = fold_in.scores(user, np.arange(60))
    slopes = predicted * (6 - predicted) / 6
    np.testing.assert_allclose(variances, 0.5 + (of_scores - 0.5) * slopes**2, rtol=1e-4)
