import numpy as np
import numpy.typing as npt
import pytest

from app.engine.arrays import InvalidArray
from app.engine.library.factorize import factorize
from app.engine.losses.grammar import InvalidLoss
from app.engine.sgd.trainer import Diverged

TEXTBOOK = np.ma.masked_equal([[5, 3, 0, 1], [4, 0, 0, 1], [1, 1, 0, 5], [1, 0, 0, 4], [0, 1, 5, 4]], 0)
HOW = {"n_epochs": 5000, "learning_rate": 0.002, "regularization": 0.01}
Matrix = npt.NDArray[np.float64]


def start(k: int = 2, seed: int = 0) -> tuple[Matrix, Matrix]:
    random = np.random.default_rng(seed)
    return random.random((5, k)), random.random((k, 4))


def by_hand(P: Matrix, Q: Matrix, n_epochs: int, rate: float, reg: float) -> tuple[Matrix, Matrix]:
    """Hand-derived gradient descent: per rating 2 e q - beta p, with alpha = rate / 2 and beta = 2 reg."""
    P, Q = P.copy(), Q.copy()
    known = [(i, j) for i in range(5) for j in range(4) if not TEXTBOOK.mask[i, j]]
    for _ in range(n_epochs):
        P_step, Q_step = np.zeros_like(P), np.zeros_like(Q)
        for i, j in known:
            e = TEXTBOOK.data[i, j] - P[i] @ Q[:, j]
            P_step[i] += 2 * e * Q[:, j] - 2 * reg * P[i]
            Q_step[:, j] += 2 * e * P[i] - 2 * reg * Q[:, j]
        P, Q = P + rate / 2 * P_step, Q + rate / 2 * Q_step
    return P, Q


def test_the_textbook_matrix_is_reproduced_and_equals_the_hand_derived_updates() -> None:
    found = factorize(TEXTBOOK, *start(), method="batch", **HOW)
    assert np.abs(found.P @ found.Q - TEXTBOOK).max() < 0.1
    P, Q = by_hand(*start(), HOW["n_epochs"], HOW["learning_rate"], HOW["regularization"])
    np.testing.assert_allclose(found.P, P, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.Q, Q, rtol=0, atol=1e-6)


@pytest.mark.parametrize("penalty", ["l2", "none"])
def test_sgd_takes_the_hand_derived_step_at_each_rating_in_its_seeded_order(penalty: str) -> None:
    P, Q = start(k=3)
    found = factorize(
        TEXTBOOK, P, Q, penalty=penalty, n_epochs=4, learning_rate=0.02, regularization=0.3, seed=7, method="sgd"
    )
    known = np.argwhere(~TEXTBOOK.mask)
    decay = 0.3 if penalty == "l2" else 0.0
    P, Q = P.copy(), Q.copy()
    for epoch in range(4):
        for at in np.random.default_rng([7, epoch]).permutation(len(known)):
            i, j = known[at]
            p, q = P[i].copy(), Q[:, j].copy()
            e = TEXTBOOK.data[i, j] - p @ q
            P[i] += 0.02 * (e * q - decay * p)
            Q[:, j] += 0.02 * (e * p - decay * q)
    np.testing.assert_allclose(found.P, P, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.Q, Q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["sgd", "batch"])
def test_the_losses_are_the_objective_after_each_epoch(method) -> None:
    found = factorize(TEXTBOOK, *start(), n_epochs=3, learning_rate=0.01, regularization=0.1, method=method)
    errors = (TEXTBOOK - found.P @ found.Q).compressed()
    counts = ~TEXTBOOK.mask
    penalties = (counts.sum(axis=1) @ found.P**2).sum() + (found.Q**2 @ counts.sum(axis=0)).sum()
    assert found.losses.shape == (3,)
    assert found.losses[-1] == pytest.approx((errors**2).sum() / 2 + 0.1 * penalties / 2)


def test_a_batch_step_goes_along_the_slope_of_the_objective() -> None:
    P, Q = start()

    def objective(P: Matrix) -> float:
        return float(
            factorize(TEXTBOOK, P, Q, n_epochs=1, learning_rate=1e-300, regularization=0.2, method="batch").losses[0]
        )

    stepped = factorize(TEXTBOOK, P, Q, n_epochs=1, learning_rate=1.0, regularization=0.2, method="batch").P
    for i, f in np.ndindex(P.shape):
        nudge = np.zeros_like(P)
        nudge[i, f] = 1e-6
        slope = (objective(P + nudge) - objective(P - nudge)) / 2e-6
        assert P[i, f] - stepped[i, f] == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("method", ["sgd", "batch"])
def test_what_is_given_stays_as_it_is(method) -> None:
    P, Q = start()
    D, before = TEXTBOOK.copy(), (P.copy(), Q.copy())
    factorize(D, P, Q, n_epochs=2, learning_rate=0.01, regularization=0.1, method=method)
    np.testing.assert_array_equal(P, before[0])
    np.testing.assert_array_equal(Q, before[1])
    assert (D == TEXTBOOK).all()


class Sparse:
    """What scipy.sparse matrices have in common, as far as it is asked for."""

    def __init__(self, rows: list[int], columns: list[int], values: list[float]) -> None:
        self.row, self.col, self.data, self.shape = rows, columns, values, (5, 4)

    def tocoo(self) -> "Sparse":
        return self


def test_masks_nan_and_sparse_matrices_mean_the_same() -> None:
    rows, columns = np.nonzero(~TEXTBOOK.mask)
    order = np.random.default_rng(3).permutation(rows.size)
    sparse = Sparse(*(each[order].tolist() for each in (rows, columns, TEXTBOOK.data[rows, columns])))
    results = [
        factorize(D, *start(), n_epochs=5, learning_rate=0.01, regularization=0.1)
        for D in (TEXTBOOK, TEXTBOOK.astype(float).filled(np.nan), sparse)
    ]
    for other in results[1:]:
        assert (other.P == results[0].P).all()
        assert (other.Q == results[0].Q).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"D": np.ones((5, 4, 1))}, InvalidArray, "D must have two dimensions, not 3"),
        ({"D": np.full((5, 4), np.nan)}, InvalidArray, "D has no known entry"),
        ({"D": np.full((5, 4), np.inf)}, InvalidArray, "not finite"),
        ({"D": Sparse([0, 0], [1, 1], [1.0, 2.0])}, InvalidArray, "stores an entry twice"),
        ({"P": np.ones((4, 2))}, InvalidArray, r"must be P \(5, k\) and Q \(k, 4\)"),
        ({"P": np.ones((5, 3))}, InvalidArray, r"not \(5, 3\) and \(2, 4\)"),
        ({"Q": np.full((2, 4), np.nan)}, InvalidArray, "Q must be a matrix of finite numbers"),
        ({"loss": "cubic"}, InvalidLoss, "the loss cubic is not known"),
        ({"penalty": "l7"}, InvalidLoss, "the penalty l7 is not known"),
        ({"method": "newton"}, ValueError, "method must be sgd or batch"),
        ({"n_epochs": 0}, ValueError, "n_epochs must be at least 1"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be a number above 0"),
        ({"regularization": float("nan")}, ValueError, "regularization must be a number of at least 0"),
    ],
)
def test_what_cannot_be_factorised_is_refused_in_words(changes, error, message) -> None:
    P, Q = start()
    how = {"D": TEXTBOOK, "P": P, "Q": Q, "n_epochs": 1, "learning_rate": 0.1, "regularization": 0.0} | changes
    with pytest.raises(error, match=message):
        factorize(how.pop("D"), how.pop("P"), how.pop("Q"), **how)


@pytest.mark.parametrize("method", ["sgd", "batch"])
def test_too_large_a_step_stops_at_the_epoch_in_which_it_goes_wrong(method) -> None:
    with pytest.raises(Diverged, match=r"diverged in epoch [1-9]"):
        factorize(TEXTBOOK, *start(), n_epochs=100, learning_rate=10.0, regularization=0.0, method=method)
