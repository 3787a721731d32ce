"""A gradient check before each fit: the compiled kernel's slopes against finite differences of the declared error.

The slopes come from the kernel that is about to train, the error's values from an independent evaluation (`evaluate`):
a mistake anywhere between the text of a loss and its machine code shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from app.engine.arrays import Vector64
from app.engine.evaluation import errors_of
from app.engine.losses.base import Loss
from app.engine.losses.declare import error_tree
from app.engine.losses.evaluate import first_not_finite, value_of
from app.engine.losses.grammar import InvalidLoss, Node
from app.engine.losses.units import TrainingUnits
from app.engine.sgd.kernel_cache import SgdKernel
from app.engine.sgd.kernel_template import n_streams_for
from app.engine.simd.lanes import aligned_matrix

N_POINTS = 256
_TOLERANCE = 2e-3
"""Share of the largest slope: the kernel computes in float32, where differences of large numbers lose digits."""
_MAX_SCORE = 4.0
"""Distance from the mean up to which scores before a sigmoid or an exponential are tried."""
_SINGULAR = {"sqrt": 0, "log": 0, "log1p": 0, "/": 1, "**": 0}
"""Operations that have no finite slope where the argument of this number is zero."""


def check_gradient(
    units: TrainingUnits, slopes_of: Callable[[Vector64, Vector64], Vector64], low: float, high: float, seed: int = 0
) -> None:
    """Raises InvalidLoss, with the position, where the error or its slope is not finite, or the slope is wrong.

    slopes_of: the kernel's slope at ratings and scores in units of training; low, high: the ratings' range.
    """
    loss, tree = units.loss, error_tree(units.loss)
    r, score = _points(units, low, high, np.random.default_rng(seed))
    if problem := first_not_finite(tree, _names(loss, r, score)):
        at = problem.point
        raise InvalidLoss(loss.error, problem.node.position, problem.what, _where(loss, r[at], score[at]))
    slopes = slopes_of(r, score)
    if not np.isfinite(slopes).all():
        at = int(np.argmin(np.isfinite(slopes)))
        names = _names(loss, r[[at]], score[[at]])
        position = _first(tree, lambda node: _is_singular(node, names))
        raise InvalidLoss(loss.error, position, "this has no finite slope", _where(loss, r[at], score[at]))
    _refuse_jump(loss, tree, r, score)
    step = 1e-4 * np.maximum(np.abs(score), 0.1)
    middle, below, above = (errors_of(loss, score + side, r) for side in (0.0, -step, step))
    left, right = (middle - below) / step, (above - middle) / step
    expected = (left + right) / 2
    tolerance = _TOLERANCE * float(np.abs(expected).max()) + np.abs(left - right)  # at a kink, any slope between them
    if (off := np.abs(slopes - expected) > tolerance).any():
        at = int(np.argmax(off))
        what = f"the compiled slope is {slopes[at]:.6g}, differences of the error give {expected[at]:.6g}"
        raise InvalidLoss(loss.error, 0, what, _where(loss, r[at], score[at]))


def kernel_slopes(kernel: SgdKernel, n_columns: int) -> Callable[[Vector64, Vector64], Vector64]:
    """The slopes of a compiled kernel: how one step without decay changes an item bias of zero."""

    def slopes_of(r: Vector64, score: Vector64) -> Vector64:
        n = r.size
        rows, ones = np.arange(n, dtype=np.int32), np.ones(n, np.int32)
        table = np.array([[0, 0, 0, n]], np.int64)  # one block: n bundles of one user with one rating each
        bundles = (np.repeat(rows[:, None], n_streams_for(n_columns), axis=1), ones, np.zeros(n, np.bool_))
        grid = (*bundles, rows, r.astype(np.float32), table)
        schedule = (np.zeros(1, np.int64), np.ones(1, np.float32))
        user_bias, item_bias = score.astype(np.float32), np.zeros(n, np.float32)
        factors = aligned_matrix(n, n_columns), aligned_matrix(n, n_columns)
        kernel(grid, schedule, np.zeros(3, np.int64), -1, 0.0, 0.0, 0.0, (*factors, user_bias, item_bias), np.zeros(1))
        return -item_bias.astype(np.float64)

    return slopes_of


def _points(units: TrainingUnits, low: float, high: float, rng: np.random.Generator) -> tuple[Vector64, Vector64]:
    """Ratings and scores in units of training, rounded to float32; the last quarter predicts the rating itself."""
    r = rng.uniform(low, high, N_POINTS)
    r[:2] = low, high
    if units.loss.link == "identity":
        score = rng.uniform(low, high, N_POINTS)
        score[-N_POINTS // 4 :] = r[-N_POINTS // 4 :]
    else:
        score = units.mean + rng.uniform(-_MAX_SCORE, _MAX_SCORE, N_POINTS)
    rounded = ((part / units.scale).astype(np.float32).astype(np.float64) for part in (r, score))
    return next(rounded), next(rounded)


def _names(loss: Loss, r: Vector64, score: Vector64) -> dict[str, Vector64]:
    return {"r": loss.unit * r, "r_hat": loss.unit * loss.rating_of(score)}


def _refuse_jump(loss: Loss, tree: Node, r: Vector64, score: Vector64) -> None:
    """Where the error rises most between two scores, it must not rise as much within a thousandth of that distance."""
    n = 512
    ratings, scores = np.repeat(r[:32], n), np.tile(np.linspace(score.min(), score.max(), n), 32)
    rises = np.abs(np.diff(errors_of(loss, scores, ratings)))
    rises[n - 1 :: n] = 0.0  # from one rating to the next
    at = int(np.argmax(rises))
    ratings, scores = np.full(1024, ratings[at]), np.linspace(scores[at], scores[at + 1], 1024)
    closer = np.abs(np.diff(errors_of(loss, scores, ratings)))
    near = int(np.argmax(closer))
    if closer[near] > 0.5 * rises[at] > 0:
        before, after = (_names(loss, ratings[[point]], scores[[point]]) for point in (near, near + 1))
        position = _first(tree, lambda node: _changes(node, before, after))
        what = "the error jumps here, so it has no gradient"
        raise InvalidLoss(loss.error, position, what, _where(loss, ratings[near], scores[near]))


def _changes(node: Node, before: dict[str, Vector64], after: dict[str, Vector64]) -> bool:
    """Whether the node takes another branch after than before."""
    if node.operation == "where":
        return bool(np.any(value_of(node.arguments[0], before) != value_of(node.arguments[0], after)))
    return node.operation == "sign" and bool(np.any(value_of(node, before) != value_of(node, after)))


def _is_singular(node: Node, names: dict[str, Vector64]) -> bool:
    if node.operation not in _SINGULAR or (node.operation == "**" and node.arguments[1].value >= 1):
        return False
    return bool(np.any(np.abs(value_of(node.arguments[_SINGULAR[node.operation]], names)) < 1e-12))


def _first(tree: Node, matches: Callable[[Node], bool]) -> int:
    return next((node.position for node in _walk(tree) if matches(node)), tree.position)


def _walk(node: Node) -> Iterator[Node]:
    """Every node, innermost first."""
    for argument in node.arguments:
        yield from _walk(argument)
    yield node


def _where(loss: Loss, r: float, score: float) -> str:
    r_hat = loss.unit * float(loss.rating_of(score))
    return f"for example where r = {loss.unit * r:.4g} and r_hat = {r_hat:.4g}"
