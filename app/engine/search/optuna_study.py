"""A search and its trials as an Optuna study, made anew for every trial; the one module that imports Optuna."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.engine.search.space import Choices, Dimension, is_integer
from app.engine.search.trials import Search, Trial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

N_CHECKPOINTS = 10
"""Points along a trial's epochs at which it is compared with other trials, which may have more or fewer epochs."""
_MEDIAN_AFTER_TRIALS, _MEDIAN_FROM = 5, 3
_RUNGS = (2, 4, 8)
"""Checkpoints at which halving compares trials: the first times the powers of the factor 2."""


def sampling_study(search: Search, number: int, trials: Sequence[Trial]) -> Study:
    """A study whose sampler has the seed (search.seed, number); only TPE learns from the trials."""
    import numpy as np
    from optuna.samplers import RandomSampler, TPESampler

    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    if search.strategy == "random":
        return _study(search, (), sampler=RandomSampler(seed))
    return _study(search, trials, sampler=TPESampler(seed=seed, multivariate=True))


def pruning_study(search: Search, trials: Sequence[Trial]) -> Study:
    """A study whose pruner compares a new trial with these.

    Median: Golovin et al. 2017, section 3.1.1. Halving: asynchronous successive halving (Li et al. 2020).
    """
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    pruners = {
        "none": NopPruner(),
        "median": MedianPruner(_MEDIAN_AFTER_TRIALS, n_warmup_steps=_MEDIAN_FROM),
        "halving": SuccessiveHalvingPruner(_RUNGS[0], reduction_factor=2),
    }
    return _study(search, trials, pruner=pruners[search.pruning])


def distributions(search: Search) -> dict[str, BaseDistribution]:
    """The space of a search in Optuna's terms."""
    return {name: _distribution(name, dimension) for name, dimension in search.space.items()}


def _study(search: Search, trials: Sequence[Trial], **sampler_or_pruner: Any) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(**sampler_or_pruner)
    spaces = distributions(search)
    study.add_trials([_frozen_trial(trial, spaces) for trial in trials])
    return study


def _distribution(name: str, dimension: Dimension) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.values)
    low, high, log = dimension.low, dimension.high, dimension.log
    if is_integer(name):
        return IntDistribution(int(low), int(high), log=log, step=int(dimension.step or 1))
    return FloatDistribution(low, high, log=log, step=dimension.step)


def _frozen_trial(trial: Trial, spaces: dict[str, BaseDistribution]) -> FrozenTrial:
    """A trial for Optuna; a failed one counts as the worst of all, so that the sampler avoids its values."""
    from optuna.trial import TrialState, create_trial

    is_complete = trial.status == "complete"
    curve = () if trial.status == "failed" else trial.curve
    # As SuccessiveHalvingPruner stores the rungs that a trial has passed.
    rungs = {f"completed_rung_{rung}": curve[at - 1] for rung, at in enumerate(_RUNGS) if len(curve) >= at}
    return create_trial(
        state=TrialState.COMPLETE if is_complete else TrialState.PRUNED,
        value=trial.value if is_complete else None,
        params=trial.parameters,
        distributions=spaces,
        intermediate_values=dict(enumerate(curve, start=1)),
        system_attrs=rungs,
    )
