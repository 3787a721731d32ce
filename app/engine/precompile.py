"""Everything that a process needs compiled, compiled or loaded from the cache before it is needed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

SERVING_KERNELS = (
    "app.engine.data.id_search",
    "app.engine.fold_in.kernels",
    "app.engine.fold_in.fused_kernels",
    "app.engine.retrieval.brute_force_kernels",
    "app.engine.retrieval.index_kernels",
    "app.engine.retrieval.diversity",
    "app.engine.fold_in.explanation",
)
"""Modules whose kernels have explicit signatures: importing one compiles it, or loads it from the cache."""


def warm_up(modules: Iterable[str] = SERVING_KERNELS) -> None:
    """Afterwards nothing in them waits for a compiler. Seconds the first time on a machine, a fraction of one later."""
    for module in modules:
        importlib.import_module(module)
