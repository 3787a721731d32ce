"""Search of hyperparameters: a space, a strategy that proposes values, and trials that a hold-out judges.

What trial n tries is a function of the space, the strategy, the seed and the results of the trials before it, and of
nothing else: no sampler keeps a state between two trials. So a search that was killed goes on, from the trials that
were written down, with exactly those that it would have done. Optuna (Akiba et al. 2019) draws and models; it is
imported where a trial is proposed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from app.engine.data.ratings import Ratings
from app.engine.evaluation import split_holdout
from app.engine.hyperparameters import Hyperparameters, InvalidHyperparameter
from app.engine.losses.base import Loss
from app.engine.losses.declare import words_of
from app.engine.losses.grammar import InvalidLoss
from app.engine.recipe import LOSS, PARAMETER, Recipe, Value
from app.engine.sgd.trainer import Diverged, EpochReport, Trainer

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

Strategy = Literal["grid", "random", "tpe"]
Pruning = Literal["none", "median", "halving"]
TrialStatus = Literal["complete", "pruned", "failed"]
Parameters = dict[str, Value]
"""Values by name: hyperparameters, `loss`, and `loss.delta` and the like for the numbers that a loss names."""
TrainerOf = Callable[[Loss], Trainer]
"""The trainer that minimises a loss."""
Folds = Sequence[tuple[Ratings, Ratings]]
"""(learned, held out), over the same rows: one pair for a hold-out, k for k-fold cross-validation."""

N_MARKS = 10
"""Places along a trial's schedule at which it is compared with others, which may have longer or shorter ones."""
_MEDIAN_FROM, _MEDIAN_AFTER = 3, 5
"""Marks passed, and trials completed, before the median of the others ends a trial."""
_HALVING_MARKS, _HALVING_AFTER = (2, 4, 8), 4
_MOST_VALUES = 1_000
_NOT_SEARCHED = {"holdout_fraction": "decides what the trials are measured on"}


class InvalidSpace(ValueError):
    """A space that cannot be searched: says at which parameter, and what is allowed."""

    def __init__(self, parameter: str, reason: str) -> None:
        super().__init__(f"{parameter}: {reason}")
        self.parameter = parameter
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from low to high, both included; `log` draws their logarithm evenly; `step` counts from low."""

    low: float
    high: float
    log: bool = False
    step: float | None = None


@dataclass(frozen=True, slots=True)
class Choices:
    """One of these."""

    values: tuple[Value, ...]


Space = dict[str, Range | Choices]

DEFAULT_SPACE: dict[str, dict[str, Any]] = {
    "n_factors": {"choices": [8, 16, 32, 64]},
    "learning_rate": {"low": 0.005, "high": 0.1, "log": True},
    "regularization": {"low": 0.01, "high": 0.3, "log": True},
    "reg_bias": {"low": 0.005, "high": 0.3, "log": True},
}
"""What matters most, around values that suit most ratings."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One set of values and what came of it. A failed trial has no value: `error` says why."""

    number: int
    parameters: Parameters
    status: TrialStatus
    value: float | None
    """Mean over the folds of the lowest hold-out RMSE; of a pruned trial the lowest that it had seen."""
    seconds: float
    curve: tuple[float, ...] = ()
    """The lowest hold-out RMSE of the first fold after each tenth of the schedule."""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to try. Equal searches on equal ratings do the same trials."""

    space: Space
    strategy: Strategy = "tpe"
    n_trials: int = 40
    seed: int = 0
    pruning: Pruning = "median"

    def __post_init__(self) -> None:
        if self.strategy == "grid":
            for name, dimension in self.space.items():
                _grid_values(name, dimension)

    @property
    def n_planned(self) -> int:
        """Trials that it does: as many as asked for, or as a grid has points."""
        if self.strategy != "grid":
            return self.n_trials
        return min(self.n_trials, math.prod(len(_grid_values(*each)) for each in self.space.items()))


def parse_space(given: Mapping[str, Mapping[str, Any]], base: Recipe | None = None) -> Space:
    """{"learning_rate": {"low": 0.01, "high": 0.1, "log": true}, "loss": {"choices": ["squared", "huber"]}}, checked.

    Numbers of a loss, as `loss.delta`, must be named by one of the losses that are tried, or else by the base's. Raises
    InvalidSpace for unknown names, values that a fit would refuse, and ranges without anything in them.
    """
    if not given:
        raise InvalidSpace("space", "needs at least one hyperparameter")
    base = base or Recipe(Hyperparameters())
    told = given.get(LOSS, {}).get("choices") or [base.told_loss]
    return {name: _dimension(name, each, _Check(name, base, told)) for name, each in given.items()}


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial with the lowest value, the earliest of equals; None where none came to its end."""
    complete = [trial for trial in trials if trial.status == "complete"]
    return min(complete, key=lambda trial: (trial.value, trial.number), default=None)


def propose(search: Search, base: Recipe, trials: Sequence[Trial]) -> Parameters | None:
    """What the next trial tries, given all before it; None when the search is complete.

    Where the values of `base` lie in the space, a random or TPE search tries them first: so what it finds is no worse.
    """
    number = len(trials)
    if number >= search.n_planned:
        return None
    if search.strategy == "grid":
        return _grid_point(search.space, number)
    standing = _standing(search.space, base)
    if number == 0 and all(_contains(dimension, standing[name]) for name, dimension in search.space.items()):
        return standing
    return _drawn(search, number, trials)


def run_search(
    trainer_of: TrainerOf,
    folds: Folds,
    base: Recipe,
    search: Search,
    *,
    trials: Sequence[Trial] = (),
    on_trial: Callable[[Trial], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> list[Trial]:
    """All trials: those that were done before, and the rest. Raises FitCancelled soon after is_cancelled says yes."""
    done = list(trials)
    while (parameters := propose(search, base, done)) is not None:
        trial = run_trial(trainer_of, folds, base, search, parameters, done, is_cancelled=is_cancelled)
        done.append(trial)
        if on_trial:
            on_trial(trial)
    return done


def run_trial(
    trainer_of: TrainerOf,
    folds: Folds,
    base: Recipe,
    search: Search,
    parameters: Parameters,
    earlier: Sequence[Trial],
    *,
    is_cancelled: Callable[[], bool] | None = None,
) -> Trial:
    """Fit and measure each fold. The first one decides whether the others are worth while.

    That a fit diverges, or that its loss turns out to be none on these ratings, is a result too.
    """
    started = time.perf_counter()
    watch = _Watch(search.pruning, earlier)
    status: TrialStatus = "complete"
    errors: list[float] = []
    reason = None
    try:
        recipe = base.with_values(parameters)
        trainer, chosen = trainer_of(recipe.loss), recipe.hyperparameters
        for number, (learned, held_out) in enumerate(folds):
            on_epoch = watch.look if number == 0 else None
            fit = trainer.fit(learned, chosen, holdout=held_out, on_epoch=on_epoch, is_cancelled=is_cancelled)
            errors.append(min(report.holdout_rmse for report in fit.epochs if report.holdout_rmse is not None))
        watch.fill()
    except _Hopeless:
        status = "pruned"
        errors = [watch.curve[-1]]
    except (Diverged, InvalidLoss) as unfit:
        status, reason = "failed", str(unfit)
    value = None if status == "failed" else statistics.fmean(errors)
    seconds = round(time.perf_counter() - started, 4)
    return Trial(len(earlier), parameters, status, value, seconds, tuple(watch.curve), reason)


def random_folds(ratings: Ratings, n_folds: int, fraction: float, seed: int) -> list[tuple[Ratings, Ratings]]:
    """One hold-out of this fraction, or n_folds parts of which each is held out once; drawn from the seed."""
    import numpy as np

    if n_folds == 1:
        return [split_holdout(ratings, fraction, seed)]
    fold_of = np.random.default_rng(seed).permutation(len(ratings)) % n_folds
    return [(ratings.take(fold_of != fold), ratings.take(fold_of == fold)) for fold in range(n_folds)]


class _Hopeless(Exception):
    """The trial is ended early."""


class _Watch:
    """Follows the hold-out error of a trial's first fold, and ends it where others did better at the same place.

    Median: Golovin et al. 2017, section 3.1.1. Halving: the better half goes on, as in asynchronous successive
    halving (Li et al. 2020).
    """

    def __init__(self, pruning: Pruning, earlier: Sequence[Trial]) -> None:
        self.curve: list[float] = []
        self._lowest = math.inf
        self._ends = {"none": lambda _: False, "median": self._is_above_median, "halving": self._is_in_worse_half}[
            pruning
        ]
        self._earlier = earlier

    def look(self, report: EpochReport) -> None:
        """Raises _Hopeless."""
        assert report.holdout_rmse is not None
        self._lowest = min(self._lowest, report.holdout_rmse)
        while len(self.curve) < N_MARKS * report.epoch // report.n_epochs:
            self.curve.append(self._lowest)
            if len(self.curve) < N_MARKS and self._ends(len(self.curve)):
                raise _Hopeless

    def fill(self) -> None:
        """A fit that stopped by itself, because it got no better, stays at its best."""
        self.curve += [self._lowest] * (N_MARKS - len(self.curve))

    def _is_above_median(self, n_marks: int) -> bool:
        others = [trial.curve[n_marks - 1] for trial in self._earlier if trial.status == "complete"]
        is_early = n_marks < _MEDIAN_FROM or len(others) < _MEDIAN_AFTER
        return not is_early and self._lowest > statistics.median(others)

    def _is_in_worse_half(self, n_marks: int) -> bool:
        reached = [trial.curve[n_marks - 1] for trial in self._earlier if len(trial.curve) >= n_marks]
        is_rung = n_marks in _HALVING_MARKS and len(reached) >= _HALVING_AFTER
        return is_rung and self._lowest > statistics.median_high(reached)


class _Check:
    """Says whether a value will do for a name, given the losses that are tried."""

    def __init__(self, name: str, base: Recipe, losses: Sequence[Any]) -> None:
        self.name = name
        self._base = base
        self._losses = losses
        if name.startswith(PARAMETER):
            self._losses = self._named_by(losses)
        elif name != LOSS:
            _field(name)

    @property
    def is_ordered(self) -> bool:
        """Whether there is something between two values."""
        return self.name.startswith(PARAMETER) or (self.name != LOSS and "low" in _field(self.name).metadata)

    def __call__(self, value: Any) -> None:
        """Raises InvalidSpace."""
        try:
            if self.name == LOSS and not isinstance(value, str):
                raise InvalidSpace(LOSS, f"must be a name or an expression, not {value!r}")
            if self.name == LOSS:
                self._base.with_values({LOSS: value})
            elif self.name.startswith(PARAMETER):
                for loss in self._losses:
                    self._base.with_values({LOSS: loss, self.name: value})
            else:
                Hyperparameters(**{self.name: value})
        except InvalidHyperparameter as invalid:
            raise InvalidSpace(self.name, f"must be {invalid.allowed}, not {value!r}") from invalid
        except InvalidLoss as invalid:
            raise InvalidSpace(self.name, str(invalid)) from invalid

    def _named_by(self, losses: Sequence[Any]) -> list[str]:
        number = self.name.removeprefix(PARAMETER)
        found = [loss for loss in losses if isinstance(loss, str) and number in _numbers_of(self._base, loss)]
        if not found:
            known = sorted({each for loss in losses for each in _numbers_of(self._base, str(loss))})
            hint = f"they name {', '.join(known)}" if known else "they name none"
            raise InvalidSpace(self.name, f"is not a number of the losses that are tried; {hint}")
        return found


def _numbers_of(base: Recipe, told: str) -> dict[str, float]:
    """The numbers that a loss names, with their values; none of a text that is no loss, which is refused elsewhere."""
    try:
        loss = base.with_values({LOSS: told}).loss
    except InvalidLoss:
        return {}
    words = words_of(loss.error, loss.penalty)
    return {name: value for name, value in loss.parameters if name in words}


def _standing(space: Space, base: Recipe) -> Parameters:
    """What the base does already; a number that its loss does not name may be any."""
    standing = {name: base.value_of(name) for name in space}
    for name, dimension in space.items():
        if standing[name] is None and name.startswith(PARAMETER):
            standing[name] = dimension.values[0] if isinstance(dimension, Choices) else dimension.low
    return standing


def _field(name: str) -> dataclasses.Field[Any]:
    fields = {field.name: field for field in dataclasses.fields(Hyperparameters)}
    if name in _NOT_SEARCHED:
        raise InvalidSpace(name, f"cannot be searched: it {_NOT_SEARCHED[name]}")
    if name not in fields:
        known = ", ".join([*sorted(fields.keys() - _NOT_SEARCHED.keys()), LOSS, f"{PARAMETER}NAME"])
        raise InvalidSpace(name, f"is not a hyperparameter; they are {known}")
    return fields[name]


def _is_whole(name: str) -> bool:
    return not (name == LOSS or name.startswith(PARAMETER)) and str(_field(name).type).startswith("int")


def _dimension(name: str, given: Mapping[str, Any], check: _Check) -> Range | Choices:
    told = {key: value for key, value in given.items() if value is not None}
    if told.keys() == {"choices"}:
        return _choices(name, told["choices"], check)
    if not {"low", "high"} <= told.keys() <= {"low", "high", "log", "step"}:
        raise InvalidSpace(name, "needs either low and high, perhaps with log or step, or choices")
    if not check.is_ordered:
        raise InvalidSpace(name, "has no order: give choices")
    return _range(name, check, **told)


def _choices(name: str, values: Sequence[Any], check: _Check) -> Choices:
    if not 1 <= len(values) <= _MOST_VALUES:
        raise InvalidSpace(name, f"needs from 1 to {_MOST_VALUES} choices, not {len(values)}")
    for value in values:
        check(value)
    if len(set(values)) < len(values):
        raise InvalidSpace(name, "names a choice twice")
    return Choices(tuple(values))


def _range(name: str, check: _Check, low: Any, high: Any, log: bool = False, step: Any = None) -> Range:
    check(low)
    check(high)
    if low >= high:
        raise InvalidSpace(name, f"low must be below high, not {low!r} and {high!r}")
    if log and low <= 0:
        raise InvalidSpace(name, f"low must be above 0 on a logarithmic scale, not {low!r}")
    if log and step is not None:
        raise InvalidSpace(name, "takes log or step, not both")
    if step is None:
        return Range(low, high, log)
    kind = "whole number" if _is_whole(name) else "number"
    if not 0 < step <= high - low or (_is_whole(name) and not isinstance(step, int)):
        raise InvalidSpace(name, f"step must be a {kind} above 0 and at most high - low, not {step!r}")
    n_steps = math.floor((high - low) / step + 1e-9)
    return Range(low, round(low + n_steps * step, 12), log, step)


def _contains(dimension: Range | Choices, value: Value) -> bool:
    if isinstance(dimension, Choices):
        return value in dimension.values
    if not isinstance(value, int | float) or not dimension.low <= value <= dimension.high:
        return False
    if dimension.step is None:
        return True
    n_steps = (value - dimension.low) / dimension.step
    return abs(n_steps - round(n_steps)) < 1e-9


def _grid_values(name: str, dimension: Range | Choices) -> Sequence[Value]:
    if isinstance(dimension, Choices):
        return dimension.values
    step = dimension.step or (1 if _is_whole(name) and not dimension.log else None)
    if step is None:
        raise InvalidSpace(name, "needs a step or choices for a grid: a range holds too many numbers")
    n_values = round((dimension.high - dimension.low) / step) + 1
    if n_values > _MOST_VALUES:
        raise InvalidSpace(name, f"has {n_values} values; a grid takes up to {_MOST_VALUES}: give a larger step")
    values = (dimension.low + number * step for number in range(n_values))
    return tuple(value if _is_whole(name) else round(value, 12) for value in values)


def _grid_point(space: Space, number: int) -> Parameters:
    """The points in order, the last parameter changing first."""
    points = itertools.product(*(_grid_values(*each) for each in space.items()))
    return dict(zip(space, next(itertools.islice(points, number, None)), strict=True))


def _drawn(search: Search, number: int, trials: Sequence[Trial]) -> Parameters:
    """By a sampler that begins anew with every trial, from a seed of its own, knowing all trials before."""
    optuna = _optuna()
    sampler = (
        optuna.samplers.RandomSampler(_seed_of(search, number))
        if search.strategy == "random"
        else optuna.samplers.TPESampler(seed=_seed_of(search, number), multivariate=True)
    )
    study = optuna.create_study(sampler=sampler)
    distributions = {name: _distribution(name, dimension) for name, dimension in search.space.items()}
    if search.strategy == "tpe":
        study.add_trials([_as_seen(trial, distributions) for trial in trials])
    drawn = study.ask(distributions).params
    return {name: drawn[name] for name in search.space}


@functools.cache
def _optuna() -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _seed_of(search: Search, number: int) -> int:
    import numpy as np

    return int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])


def _distribution(name: str, dimension: Range | Choices) -> BaseDistribution:
    distributions = _optuna().distributions
    if isinstance(dimension, Choices):
        made = distributions.CategoricalDistribution(dimension.values)
    elif _is_whole(name):
        made = distributions.IntDistribution(
            int(dimension.low), int(dimension.high), log=dimension.log, step=int(dimension.step or 1)
        )
    else:
        made = distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)
    return made  # type: ignore[no-any-return]


def _as_seen(trial: Trial, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    """A trial as the sampler knows it; one that diverged counts as the worst there is, so that it is avoided."""
    optuna = _optuna()
    states = optuna.trial.TrialState
    is_complete = trial.status == "complete"
    seen = {} if trial.status == "failed" else dict(enumerate(trial.curve))
    return optuna.trial.create_trial(  # type: ignore[no-any-return]
        state=states.COMPLETE if is_complete else states.PRUNED,
        value=trial.value if is_complete else None,
        params=trial.parameters,
        distributions=distributions,
        intermediate_values=seen,
    )
