import pytest

from app.engine.sgd.trainer import Diverged, EpochReport, Fit, FitCancelled, NoRatings
from tests.engine.worlds import random_model


def test_the_best_report_of_a_fit_is_that_of_its_best_epoch() -> None:
    reports = tuple(EpochReport(epoch, 3, 0.1, 1.0, 1.0 / epoch, 1e6) for epoch in (1, 2, 3))
    assert Fit(random_model(), reports, best_epoch=2).best.epoch == 2


def test_a_fit_that_fails_says_when_and_what_to_do() -> None:
    diverged = Diverged(epoch=3, learning_rate=0.5, reason="the training error rose")
    assert str(diverged) == (
        "training diverged in epoch 3 at learning rate 0.5: the training error rose; "
        "try a lower learning_rate or more regularization"
    )
    assert str(FitCancelled(epoch=2)) == "training was cancelled in epoch 2"
    with pytest.raises(ValueError, match="no ratings"):
        raise NoRatings
