"""Everything that serving needs compiled, compiled or loaded from the cache before the first request."""

from __future__ import annotations

import importlib

SERVING_KERNELS = (
    "app.engine.id_search",
    "app.engine.posteriors",
    "app.engine.top_n_kernels",
    "app.engine.top_n_index_kernels",
)
"""Modules whose kernels have explicit signatures: importing one compiles it, or loads it from the cache."""


def warm_up() -> None:
    """Afterwards no request waits for a compiler. Seconds the first time on a machine, a fraction of one later."""
    for module in SERVING_KERNELS:
        importlib.import_module(module)
