"""Compiles every kernel before it is needed, or loads it from Numba's cache."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path

from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.base import Loss
from app.engine.sgd.kernel_cache import load_kernel
from app.engine.simd.lanes import padded

# Kernels have explicit signatures, so importing a module compiles its kernels or loads them from the cache.
SERVING_KERNELS = (
    "app.engine.data.id_search",
    "app.engine.fold_in.kernels",
    "app.engine.retrieval.brute_force_kernels",
    "app.engine.retrieval.index_kernels",
    "app.engine.retrieval.diversity",
    "app.engine.fold_in.explanation",
)
TRAINING_KERNELS = (
    "app.engine.bayes.gibbs_kernels",
    "app.engine.data.features",
    "app.engine.data.sorting",
    "app.engine.data.statistics",
    "app.engine.linalg",
    "app.engine.sgd.epoch_kernels",
    "app.engine.sgd.grid_kernels",
    "app.engine.sgd.sampling_kernels",
    "app.engine.sgd.user_prior",
)


def precompile_serving_kernels() -> None:
    """Seconds the first time on a machine, a fraction of a second later."""
    for module in SERVING_KERNELS:
        importlib.import_module(module)


def precompile_training_kernels(
    hyperparameters: Hyperparameters, loss: Loss, folder: Path, extra_modules: Iterable[str] = ()
) -> None:
    """The kernels of a fit with these hyperparameters and this loss, those of serving, and those of extra_modules.

    Half a minute the first time on a machine, a fraction of a second later. The SGD kernel of a loss other than the
    squared one depends on the ratings too, so it is compiled by the first fit.   folder: where SGD kernels are stored
    """
    if loss.is_squared:
        load_kernel(loss, padded(hyperparameters.n_factors), folder)
    for module in (*SERVING_KERNELS, *TRAINING_KERNELS, *extra_modules):
        importlib.import_module(module)
