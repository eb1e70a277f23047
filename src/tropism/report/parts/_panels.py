"""A metric by round, and panels side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tropism.report.axes import Axis, Point
from tropism.report.elements import figure
from tropism.report.plots import Series, lines
from tropism.report.read import Finished
from tropism.report.words import title


def panel(stage: Finished, key: str, heading: str, axis: Axis) -> str:
    points: list[Point] = [(m["round"], m[key]) for m in stage.metrics if key in m]
    curve = Series(heading, points, 0, window(points))
    named = f"{title(stage.id)}: {heading}"
    return figure(named, lines(f"{named} by round", [curve], Axis("round", whole=True), axis))


def grid(parts: Sequence[str]) -> str:
    return f'<div class="plots">{"".join(parts)}</div>' if any(parts) else ""


def window(metrics: Sequence[Any]) -> int:
    return max(len(metrics) // 8, 1)
