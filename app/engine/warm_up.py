"""Everything that a process needs compiled, compiled or loaded from the cache before it is needed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

SERVING_KERNELS = (
    "app.engine.id_search",
    "app.engine.posteriors",
    "app.engine.fold_in_kernels",
    "app.engine.top_n_kernels",
    "app.engine.top_n_index_kernels",
    "app.engine.diversity",
    "app.engine.explanation",
)
"""Modules whose kernels have explicit signatures: importing one compiles it, or loads it from the cache."""


def warm_up(modules: Iterable[str] = SERVING_KERNELS) -> None:
    """Afterwards nothing in them waits for a compiler. Seconds the first time on a machine, a fraction of one later."""
    for module in modules:
        importlib.import_module(module)
