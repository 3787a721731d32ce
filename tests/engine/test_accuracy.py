"""An accuracy band on real ratings: fold 0 of five fixed folds, everybody folded in with default settings."""

import numpy as np

from app.engine.evaluation import interval_coverage, split_holdout
from app.engine.fold_in.intervals import gaussian_interval
from app.engine.hyperparameters import Hyperparameters
from app.engine.sgd.local import LocalTrainer
from app.engine.sgd.refit import refit
from benchmarks.engine_folds import by_fold_in, by_trained_vectors, clipped_rmse, load_folds
from tests.conftest import KERNELS


def test_the_error_on_movielens_stays_in_its_band(movielens):
    ratings, fold_of = load_folds(movielens / "ratings.csv")
    train, test = ratings.take(fold_of != 0), ratings.take(fold_of == 0)
    settings, trainer = Hyperparameters(), LocalTrainer(1, KERNELS)
    learned, holdout = split_holdout(train, settings.holdout_fraction, settings.seed)
    model = refit(trainer, train, settings, trainer.fit(learned, settings, holdout=holdout)).model
    predicted, variances = by_fold_in(model, train, test)
    assert 0.835 < clipped_rmse(predicted, test) < 0.848
    assert 0.835 < clipped_rmse(by_trained_vectors(model, test), test) < 0.848
    assert 0.88 < interval_coverage(test.values, *gaussian_interval(predicted, variances, 0.9)) < 0.93
    assert np.isfinite(variances).all()
