import numpy as np
import pytest

from app.engine.arrays import InvalidArray
from app.engine.hyperparameters import InvalidHyperparameter
from app.engine.library.fit import fit
from app.engine.losses.declare import declare
from app.engine.losses.grammar import InvalidLoss
from app.engine.sgd.trainer import NoRatings
from tests.conftest import KERNELS

HOW = {"n_factors": 4, "n_epochs": 40, "learning_rate": 0.1}
TRIPLES = [
    (f"user-{u}", f"item-{i}", 4.5 if (u + i) % 2 == 0 else 1.5)
    for u in range(40)
    for i in range(30)
    if (3 * u + 5 * i) % 7
]


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine.sgd.local.default_kernel_folder", lambda: KERNELS)


class Table:
    """What pandas and Polars tables have in common, as far as it is asked for."""

    def __init__(self, **columns: list[object]) -> None:
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.array(self._columns[name], object)


def test_what_two_kinds_of_users_like_is_predicted_and_recommended() -> None:
    model = fit(TRIPLES, **HOW)
    assert model.predict("user-0", "item-0") > 4
    assert model.predict("user-0", "item-7") < 2
    best = model.recommend("user-0", n=2)
    assert len(best) == 2
    assert {int(item.removeprefix("item-")) % 2 for item, _ in best} == {0}
    rated = {item for user, item, _ in TRIPLES if user == "user-0"}
    assert not rated & {item for item, _ in model.recommend("user-0", n=1000)}


def test_strangers_are_average() -> None:
    model = fit(TRIPLES, **HOW)
    assert model.predict("nobody", "nothing") == pytest.approx(np.mean([value for *_, value in TRIPLES]), abs=0.3)
    assert model.recommend("nobody", n=3)


def test_the_order_and_the_form_of_the_ratings_do_not_matter() -> None:
    users, items, values = (list(each) for each in zip(*TRIPLES, strict=True))
    table = Table(when=[0] * len(users), value=values, item_id=items, user_id=users)
    unnamed = Table(who=users, what=items, stars=values)
    expected = fit(TRIPLES, **HOW).model.digest()
    for same in (TRIPLES[::-1], iter(TRIPLES), table, unnamed):
        assert fit(same, **HOW).model.digest() == expected


def test_positions_are_the_ids_of_a_matrix() -> None:
    D = np.ma.masked_equal([[5, 3, 0, 1], [4, 0, 0, 1], [1, 1, 0, 5], [1, 0, 0, 4], [0, 1, 5, 4]], 0)
    model = fit(D, n_factors=2)
    assert model.holdout_fit is None
    assert [item for item, _ in model.recommend(0)] == ["2"]
    assert model.predict(3, 3) == model.predict("3", "3")


def test_a_sigmoid_link_keeps_predictions_between_the_lowest_and_the_highest_value() -> None:
    likes = [(user, item, float(value > 3)) for user, item, value in TRIPLES]
    model = fit(likes, loss="logistic", **HOW)
    assert model.model.loss.rating_range == (0.0, 1.0)
    assert 0.9 < model.predict("user-0", "item-0") < 1
    assert 0 < model.predict("user-0", "item-7") < 0.1
    assert 0.3 < model.predict("nobody", "nothing") < 0.7
    assert all(0.9 < predicted < 1 for _, predicted in model.recommend("user-0", n=2))


def test_counts_are_predicted_through_an_exponential() -> None:
    plays = [(user, item, 20.0 if value > 3 else 1.0) for user, item, value in TRIPLES]
    model = fit(plays, loss="poisson", **HOW)
    assert model.predict("user-0", "item-0") == pytest.approx(20, rel=0.25)
    assert 0 < model.predict("user-0", "item-7") < 3


def test_a_loss_is_declared_in_place_or_before() -> None:
    told = fit(TRIPLES, loss="huber", penalty="elastic_net", parameters={"delta": 0.5, "l1_share": 0.2}, **HOW)
    made = declare("huber", penalty="elastic_net", parameters={"delta": 0.5, "l1_share": 0.2})
    assert told.model.loss == made
    assert told.model.digest() == fit(TRIPLES, loss=made, **HOW).model.digest()
    squashed = fit(TRIPLES, loss="squared", link="sigmoid", **HOW)
    assert 1.5 <= squashed.predict("user-0", "item-7") < squashed.predict("user-0", "item-0") <= 4.5


def test_ratings_that_are_all_the_same_have_no_range_to_scale_a_link_to() -> None:
    same = [(user, item, 3.0) for user, item, _ in TRIPLES]
    assert fit(same, **HOW).predict("user-0", "item-0") == pytest.approx(3)
    with pytest.raises(InvalidLoss, match="needs a rating range"):
        fit(same, loss="logistic")


@pytest.mark.parametrize(
    ("ratings", "error", "message"),
    [
        ([], NoRatings, "no ratings"),
        ([("ann", "dune")], InvalidArray, "need .user, item, value. triples"),
        ([("ann", "dune", "good")], InvalidArray, "a value that is not a number"),
        ([("ann", "dune", float("nan"))], InvalidArray, "not finite"),
        ([("ann", "dune", 1), ("ann", "heat", 2), ("ann", "dune", 3)], InvalidArray, "'dune' by 'ann' more than once"),
        (Table(user_id=["ann"]), InvalidArray, "need three columns"),
    ],
)
def test_ratings_that_cannot_be_learned_are_refused_in_words(ratings, error, message) -> None:
    with pytest.raises(error, match=message):
        fit(ratings)


def test_a_hyperparameter_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidHyperparameter, match="rank must be left out"):
        fit(TRIPLES, rank=3)
