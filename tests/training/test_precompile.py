import subprocess
import sys

from app.settings import Settings
from tests.conftest import REPOSITORY


def test_after_warming_up_a_training_with_default_settings_needs_no_other_kernel(sqlite_settings: Settings) -> None:
    """In a process of its own, by the modules whose kernels are there before and after."""
    program = f"""
import sys
from numba.core.registry import CPUDispatcher
from numba.core import event
from app.db.engine import open_database
from app.settings import Settings
from app.training.precompile import warm_up_training

def compiled():
    known = (each for name, each in sys.modules.items() if name.startswith(("app.", "palate_kernels.")))
    return {{it.__module__ for module in known for it in vars(module).values() if isinstance(it, CPUDispatcher)}}

settings = Settings.model_validate_json({sqlite_settings.model_dump_json()!r})
warm_up_training(settings)
before = compiled()
with event.install_recorder("numba:compile") as compilations:
    from app.engine.hyperparameters import Hyperparameters
    from tests.training.world import fill, train
    database = open_database(settings)
    fill(database)
    run = train(database, settings, Hyperparameters(posterior="on", n_sweeps=20))
print(run.status, "posterior" in run.metrics, len(compilations.buffer), *sorted(compiled() - before))
"""
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=REPOSITORY)
    assert ran.stdout.split() == ["succeeded", "True", "0"]
