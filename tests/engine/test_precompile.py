import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_after_warming_up_serving_compiles_nothing():
    """In a process of its own: counts compilations by Numba's own events."""
    program = """
import numpy as np
from app.engine.precompile import warm_up
warm_up()
from numba.core import event
with event.install_recorder("numba:compile") as compilations:
    from app.engine.dataset import Vocabulary
    from app.engine.fold_in import FoldIn
    from app.engine.top_n import popular_items, similar_items, top_n
    from tests.engine.worlds import random_model
    Vocabulary.of(["a", "b"]).rows_of(["b"])
    model = random_model()
    fold_in = FoldIn(model)
    user = fold_in.fold_in([1, 2], [3.0, 4.0])
    fold_in.predict(user, [0, -1])
    top_n(model, user, 3, excluded=np.array([1, 2], np.int32))
    similar_items(model, 0, 3)
    popular_items(model, 3)
print(len(compilations.buffer))
"""
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=REPOSITORY)
    assert ran.stdout.strip() == "0"
