"""Everything that a run with the default settings needs compiled, compiled or loaded before the first run."""

from __future__ import annotations

from app.engine.hyperparameters import Hyperparameters
from app.engine.kernel import load_kernel
from app.engine.lanes import padded
from app.engine.warm_up import SERVING_KERNELS, warm_up
from app.settings import Settings

TRAINING_KERNELS = (
    "app.engine.block_kernels",
    "app.engine.crowd_kernels",
    "app.engine.posterior_kernels",
    "app.engine.sorting",
    "app.engine.tally",
    "app.engine.trainers.measure",
    "app.engine.trainers.sample_kernels",
    "app.ratings.sqlite_native",
    "app.training.snapshot_kernels",
)


def warm_up_training(settings: Settings) -> None:
    """Half a minute of compiling the first time on a machine; later a fraction of a second."""
    chosen = Hyperparameters.from_dict(settings.hyperparameters)
    if settings.loss.is_squared:  # another loss's kernel depends on the ratings too
        load_kernel(settings.loss, padded(chosen.n_factors), settings.kernels_dir)
    warm_up((*SERVING_KERNELS, *TRAINING_KERNELS))
