"""Draws time against test RMSE, in the peers' environment: plot.py NAME CURVES.json TARGET.png"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib  # type: ignore[import-not-found]

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # type: ignore[import-not-found]
from matplotlib.ticker import FuncFormatter  # type: ignore[import-not-found]


def main() -> None:
    name, source, target = sys.argv[1:]
    curves = json.loads(Path(source).read_text())
    figure, axes = plt.subplots(figsize=(8, 5))
    for label, points in curves.items():
        seconds, errors = zip(*points, strict=True)
        is_ours = label.startswith("Palate")
        axes.plot(seconds, errors, "o-" if is_ours else "s--", label=label, linewidth=2 if is_ours else 1, markersize=4)
    lowest = min(error for points in curves.values() for _, error in points)
    axes.set_xscale("log")
    axes.set_ylim(lowest * 0.995, lowest * 1.12)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set(xlabel="seconds from arrays in memory, set-up included", ylabel="test RMSE", title=f"{name}, 64 factors")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.tight_layout()
    figure.savefig(target, dpi=130)


if __name__ == "__main__":
    main()
