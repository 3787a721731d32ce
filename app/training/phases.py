"""Where the time of a run went, for people."""

from __future__ import annotations

from collections.abc import Mapping

BOUNDS = {
    "load": "the database handing out rows; with a stored snapshot, one pass over all ratings in memory",
    "start": "copying vectors, and folding in new users and items one by one",
    "layout": "memory: every rating is moved twice, to distant places",
    "fit": "arithmetic on vectors in the second-level cache",
    "posterior": "sums of outer products, a vector's at a time in registers; memory where there are many users",
    "evaluate": "folding in up to 2,000 users, and ranking for them, on one processor",
    "final_fit": "the same as fit, over all ratings",
    "final_posterior": "the same as posterior, over all ratings",
    "publish": "checksums on one processor, and the disk that is waited for",
}
"""What each phase spends its time on, in the order in which they happen."""


def phase_table(seconds: Mapping[str, float]) -> str:
    """One line per phase: its seconds, its share of the run, and what bounds it."""
    total = sum(seconds.values())
    lines = [
        f"{phase:10}{seconds[phase]:9.3f} s {seconds[phase] / max(total, 1e-9):6.1%}   {bound}"
        for phase, bound in BOUNDS.items()
        if phase in seconds
    ]
    return "\n".join([*lines, f"{'in all':10}{total:9.3f} s"])
