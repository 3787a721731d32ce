from app.engine.evaluation import split_holdout
from app.engine.hyperparameters import Hyperparameters
from app.engine.sgd.local import LocalTrainer
from app.engine.sgd.refit import refit
from tests.conftest import KERNELS
from tests.engine.worlds import planted


def test_a_refit_learns_the_holdout_for_as_many_epochs_as_were_best():
    noisy = planted(n_users=100, n_items=100, n_ratings=3000, noise=0.8)
    settings = Hyperparameters(n_factors=8, n_epochs=60, learning_rate=0.1, regularization=0.0, patience=3)
    trainer = LocalTrainer(1, KERNELS)
    train, holdout = split_holdout(noisy.ratings, 0.2, seed=0)
    first = trainer.fit(train, settings, holdout=holdout)
    again = refit(trainer, noisy.ratings, settings, first)
    assert len(again.epochs) == again.best_epoch == first.best_epoch
    assert again.model.user_counts.sum() == len(noisy.ratings)
    assert again.model.noise_variance == first.model.noise_variance
