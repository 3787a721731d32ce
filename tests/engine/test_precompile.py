import subprocess
import sys
from pathlib import Path

from app.settings import Settings

REPOSITORY = Path(__file__).parents[2]

LIST_KERNELS = """
import sys
from numba.core import event
from numba.core.registry import CPUDispatcher

def modules_with_kernels():
    loaded = [each for name, each in sys.modules.items() if name.startswith(("app.", "palate_kernels."))]
    return {it.__module__ for module in loaded for it in vars(module).values() if isinstance(it, CPUDispatcher)}
"""


def run(program: str) -> list[str]:
    """What the program prints, in a process of its own that has no kernels loaded."""
    command = [sys.executable, "-c", LIST_KERNELS + program]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout.split()


def test_serving_compiles_nothing_once_its_kernels_are_precompiled() -> None:
    """Counts compilations by Numba's own events."""
    program = """
import numpy as np
from app.engine.precompile import precompile_serving_kernels
precompile_serving_kernels()
with event.install_recorder("numba:compile") as compilations:
    from app.engine.data.ratings import Vocabulary
    from app.engine.fold_in.fold_in import FoldIn
    from app.engine.retrieval.brute_force import bayesian_means, top_n
    from app.engine.retrieval.index import build_retriever
    from app.engine.retrieval.retriever import Query
    from tests.engine.worlds import random_model
    Vocabulary.of(["a", "b"]).rows_of(["b"])
    model = random_model(n_items=600)
    fold_in = FoldIn(model)
    user = fold_in.fold_in([1, 2], [3.0, 4.0])
    fold_in.predict(user, [0, -1])
    fold_in.with_intervals(user, [0, -1])
    top_n(model, user, 3, excluded=np.array([1, 2], np.int32))
    build_retriever(model).search([Query(user.factors)] * 2, 3, cosine=True)
    bayesian_means(model)
print(len(compilations.buffer))
"""
    assert run(program) == ["0"]


def test_every_kernel_of_the_engine_is_precompiled_for_training(tmp_path: Path) -> None:
    program = f"""
import importlib, pkgutil
from pathlib import Path
import app.engine
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.catalog import SQUARED
from app.engine.precompile import precompile_training_kernels
precompile_training_kernels(Hyperparameters(n_factors=8), SQUARED, Path({str(tmp_path)!r}))
before = modules_with_kernels()
for module in pkgutil.walk_packages(app.engine.__path__, "app.engine."):
    importlib.import_module(module.name)
print(*sorted(modules_with_kernels() - before))
"""
    of_the_library = ["app.engine.library.factorize"]  # compiled for the loss that it is called with
    assert run(program) == of_the_library


def test_training_with_default_settings_needs_no_other_kernel(sqlite_settings: Settings) -> None:
    program = f"""
from app.db.engine import open_database
from app.settings import Settings
from app.worker import precompile

settings = Settings.model_validate_json({sqlite_settings.model_dump_json()!r})
precompile(settings)
before = modules_with_kernels()
with event.install_recorder("numba:compile") as compilations:
    from app.engine.hyperparameters import Hyperparameters
    from tests.training.world import fill, train
    database = open_database(settings)
    fill(database)
    run = train(database, settings, Hyperparameters(posterior="on", n_sweeps=20))
print(run.status, "posterior" in run.metrics, len(compilations.buffer), *sorted(modules_with_kernels() - before))
"""
    assert run(program) == ["succeeded", "True", "0"]
