"""Everything that a run with the default settings needs compiled, compiled or loaded before the first run."""

from __future__ import annotations

from app.engine.hyperparameters import Hyperparameters
from app.engine.precompile import SERVING_KERNELS, warm_up
from app.engine.sgd.kernel_cache import load_kernel
from app.engine.simd.lanes import padded
from app.settings import Settings

TRAINING_KERNELS = (
    "app.engine.sgd.grid_kernels",
    "app.engine.sgd.user_prior_kernels",
    "app.engine.bayes.gibbs_kernels",
    "app.engine.data.features",
    "app.engine.data.sorting",
    "app.engine.data.statistics",
    "app.engine.linalg",
    "app.engine.sgd.epoch_kernels",
    "app.engine.sgd.sampling_kernels",
    "app.ratings.sqlite_native",
    "app.training.snapshot.kernels",
)


def warm_up_training(settings: Settings) -> None:
    """Half a minute of compiling the first time on a machine; later a fraction of a second."""
    chosen = Hyperparameters.from_dict(settings.hyperparameters)
    if settings.loss.is_squared:  # another loss's kernel depends on the ratings too
        load_kernel(settings.loss, padded(chosen.n_factors), settings.kernels_dir)
    warm_up((*SERVING_KERNELS, *TRAINING_KERNELS))
