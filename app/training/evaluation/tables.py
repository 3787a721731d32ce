"""The quality report of a version as tables, for `palate evaluate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.bar import Bar
from rich.table import Table

from app.engine.fold_in.intervals import INTERVAL_LEVEL
from app.registry.versions import VersionRow
from app.training.evaluation.holdout import TOP

_BAR = 30
_PERCENT = round(100 * INTERVAL_LEVEL)
_MEASURES = {
    "RMSE, as served": ("holdout_rmse",),
    "RMSE, trained vectors": ("holdout_rmse_trained_vectors",),
    "RMSE, biases": ("report", "baselines", "biases", "rmse"),
    "RMSE, item means": ("holdout_rmse_item_means",),
    "RMSE, overall mean": ("report", "baselines", "overall_mean", "rmse"),
    "MAE, as served": ("holdout_mae",),
    "MAE, biases": ("report", "baselines", "biases", "mae"),
    "MAE, overall mean": ("report", "baselines", "overall_mean", "mae"),
    f"nDCG@{TOP}": (f"ndcg_at_{TOP}",),
    f"nDCG@{TOP}, popularity": ("report", "baselines", "popularity", f"ndcg_at_{TOP}"),
    f"nDCG@{TOP}, by relevance": (f"ndcg_at_{TOP}_by_relevance",),
    f"nDCG@{TOP}, of rated items only": (f"ndcg_at_{TOP}_of_rated",),
    f"recall@{TOP}": (f"recall_at_{TOP}",),
    f"recall@{TOP}, popularity": ("report", "baselines", "popularity", f"recall_at_{TOP}"),
    f"recall@{TOP}, by relevance": (f"recall_at_{TOP}_by_relevance",),
    f"inside the interval of {_PERCENT} %": (f"holdout_interval_{_PERCENT}_coverage",),
}
"""The rows of the first table, and the path of each in the metrics."""


def tables(shown: VersionRow, active: VersionRow | None) -> Iterator[Table | str]:
    """Measures of a version overall and by bucket, next to those of the active version if that is another one."""
    other = active if active is not None and active.version != shown.version else None
    metrics = shown.manifest["metrics"]
    if "holdout_rmse" not in metrics:
        yield f"version {shown.version} was not evaluated: there were too few ratings for a hold-out"
        return
    yield _measures(shown, other)
    gate = metrics.get("gate")
    if gate and gate["rmse"] is not None and gate["active_rmse"] is not None:
        yield (
            f"RMSE on the same {gate['n_ratings']:,} held-out ratings when it was published: {gate['rmse']:.4f}, "
            f"that of version {gate['active_version']}, active at the time: {gate['active_rmse']:.4f}"
        )
    if "report" not in metrics:
        yield f"version {shown.version} has no report by number of ratings"
        return
    other_report = other.manifest["metrics"].get("report", {}) if other else {}
    for side in ("user", "item"):
        theirs = other_report.get(f"by_ratings_of_{side}", [])
        yield _by_bucket(side, metrics["report"][f"by_ratings_of_{side}"], theirs, other)


def _measures(shown: VersionRow, other: VersionRow | None) -> Table:
    table = Table("on held-out ratings", title=f"version {shown.version}")
    for version in filter(None, (shown, other)):
        table.add_column(_name(version), justify="right")
    for name, path in _MEASURES.items():
        values = [_at(version.manifest["metrics"], path) for version in (shown, other) if version is not None]
        if any(value is not None for value in values):
            table.add_row(name, *map(_number, values))
    if other is not None:
        table.caption = "each on the hold-out of its own run"
    return table


def _by_bucket(
    side: str, buckets: list[dict[str, Any]], theirs: list[dict[str, Any]], other: VersionRow | None
) -> Table:
    """One row per bucket, with a bar in proportion to its RMSE; bars shrink on narrow terminals."""
    table = Table()
    table.add_column(f"ratings of\nthe {side}", no_wrap=True)
    for name in ("ratings", "RMSE", "MAE", "inside", "width"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("RMSE", max_width=_BAR)
    before = {bucket["from"]: bucket["rmse"] for bucket in theirs}
    if other is not None:
        table.add_column(f"RMSE, {_name(other)}", justify="right")
    largest = max((bucket["rmse"] for bucket in buckets), default=0.0) or 1.0
    for bucket in buckets:
        errors = _number(bucket["rmse"]), _number(bucket["mae"])
        interval = f"{bucket['coverage']:.1%}", f"{bucket['width']:.2f}"
        bar = Bar(largest, 0, bucket["rmse"])
        compared = [_number(before.get(bucket["from"]))] if other is not None else []
        table.add_row(_range(bucket), f"{bucket['n']:,}", *errors, *interval, bar, *compared)
    return table


def _name(version: VersionRow) -> str:
    return f"version {version.version}" + (" (active)" if version.is_active else "")


def _range(bucket: Mapping[str, Any]) -> str:
    first, last = bucket["from"], bucket["to"]
    if last is None:
        return f"{first} and more"
    return str(first) if first == last else f"{first} to {last}"


def _at(metrics: Any, path: tuple[str, ...]) -> float | None:
    for name in path:
        metrics = metrics.get(name) if isinstance(metrics, Mapping) else None
    return metrics if isinstance(metrics, int | float) else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
