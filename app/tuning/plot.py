"""A search as one SVG image: error by trial and by time, and the effect of each parameter."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from app.engine.search.space import Choices, Range, Space
from app.engine.search.trials import Trial, best_of

_COLUMNS, _WIDTH, _HEIGHT = 3, 320, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 30, 40
_STYLE = """\
svg { font: 12px system-ui, sans-serif; --ink: #1d1b2e; --muted: #625f78; --line: #e2dff0; --accent: #5b4bdb; }
@media (prefers-color-scheme: dark) {
  svg { --ink: #ecebf5; --muted: #a5a1bb; --line: #312e45; --accent: #a99dff; }
}
text { fill: var(--muted); } .title { fill: var(--ink); font-weight: 600; }
line { stroke: var(--line); } path { fill: none; stroke: var(--accent); stroke-width: 2; }
circle { fill: var(--accent); fill-opacity: 0.6; } .pruned { fill: none; stroke: var(--muted); }
.best { fill: var(--accent); fill-opacity: 1; stroke: var(--ink); stroke-width: 1.5; }
"""
Scale = Callable[[Any], float]
"""From a value to its position across a panel, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """The horizontal axis of a panel: a trial's value on it, the position of a value, and the tick labels."""

    title: str
    value_of: Callable[[Trial], Any]
    scale: Scale
    ticks: Sequence[tuple[float, str]]


def plot(space: Space, trials: Sequence[Trial]) -> str:
    """The text of an SVG file. Failed trials, which have no error, are left out; far worse ones are at the edge."""
    shown = [trial for trial in trials if trial.value is not None]
    last = max((trial.number for trial in shown), default=0) or 1
    longest = max((trial.seconds for trial in shown), default=0.0) or 1.0
    axes = [
        _Axis("Error by trial, and the lowest so far", lambda trial: trial.number, *_numeric(0, last)),
        _Axis("Error by seconds of the trial", lambda trial: trial.seconds, *_numeric(0, longest)),
        *(_by_parameter(*each) for each in space.items()),
    ]
    n_rows = -(-len(axes) // _COLUMNS)
    size = f'viewBox="0 0 {_COLUMNS * _WIDTH} {n_rows * _HEIGHT}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="Trials of a search">']
    parts.append(f"<style>{_STYLE}</style>")
    for number, axis in enumerate(axes):
        x, y = number % _COLUMNS * _WIDTH, number // _COLUMNS * _HEIGHT
        parts += [f'<g transform="translate({x} {y})">', *_panel(axis, shown, has_line=number == 0), "</g>"]
    return "\n".join([*parts, "</svg>\n"])


def _panel(axis: _Axis, trials: Sequence[Trial], *, has_line: bool) -> Iterator[str]:
    yield f'<text class="title" x="{_LEFT}" y="18">{escape(axis.title)}</text>'
    if not trials:
        yield f'<text x="{_LEFT}" y="{_HEIGHT // 2}">no trial yet</text>'
        return
    low, high = _limits(trials)

    def up(value: float) -> float:
        share = (min(value, high) - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    for level in (low, (low + high) / 2, high):
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(level):.1f}" y2="{up(level):.1f}"/>'
        yield f'<text x="{_LEFT - 6}" y="{up(level) + 4:.1f}" text-anchor="end">{level:.4f}</text>'
    for position, label in axis.ticks:
        yield f'<text x="{_across(position):.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{escape(label)}</text>'
    points = [(_across(axis.scale(axis.value_of(trial))), up(trial.value or 0.0), trial) for trial in trials]
    if has_line:
        yield _best_line(points)
    best = best_of(trials)
    for x, y, trial in sorted(points, key=lambda point: point[2] is best):  # the best is drawn over the others
        kind = "best" if trial is best else trial.status
        tooltip = f"trial {trial.number}: {trial.value:.4f} ({trial.status}, {trial.seconds:.1f} s)"
        radius = 5 if trial is best else 3.5
        yield f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{tooltip}</title></circle>'


def _best_line(points: Sequence[tuple[float, float, Trial]]) -> str:
    """The lowest error of complete trials so far, as steps; a lower error is further down: at a greater y."""
    path, lowest = "", -math.inf
    for x, y, trial in points:
        if trial.status == "complete" and y > lowest:
            path += f"H{x:.1f}V{y:.1f}" if path else f"M{x:.1f} {y:.1f}"
            lowest = y
    return f'<path d="{path}H{points[-1][0]:.1f}"/>' if path else ""


def _limits(trials: Sequence[Trial]) -> tuple[float, float]:
    """The lowest error, and at most four times as far above it as the median: worse trials need no detail."""
    values = [trial.value for trial in trials if trial.value is not None]
    low = min(values)
    spread = max(4 * (statistics.median(values) - low), 1e-4)
    return low, max(min(max(values), low + spread), low + 1e-4)


def _across(share: float) -> float:
    return _LEFT + 8 + share * (_WIDTH - _LEFT - _RIGHT - 16)


def _by_parameter(name: str, dimension: Range | Choices) -> _Axis:
    if isinstance(dimension, Range):
        scale, ticks = _numeric(dimension.low, dimension.high, dimension.log)
    else:
        n_values = len(dimension.values)
        positions = {value: (number + 0.5) / n_values for number, value in enumerate(dimension.values)}
        scale, ticks = positions.__getitem__, [(position, str(value)) for value, position in positions.items()][:12]
    return _Axis(name, lambda trial: trial.parameters[name], scale, ticks)


def _numeric(low: float, high: float, log: bool = False) -> tuple[Scale, list[tuple[float, str]]]:
    ticks = [(0.0, f"{low:g}"), (1.0, f"{high:g}")]
    if not log:
        return lambda value: (value - low) / (high - low), ticks
    ticks.insert(1, (0.5, f"{math.sqrt(low * high):.2g}"))
    return lambda value: math.log(value / low) / math.log(high / low), ticks
