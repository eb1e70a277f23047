"""Small plots as inline SVG: lines, dots and whiskers, bars, a reliability scatter, a radar. No library, no script.

Colours are classes (`s0` … `s5`) that the style sheet defines for light and dark; series also differ in dash or shape.
Every point has its numbers as a <title>. Left out: zoom and tooltips that need scripts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tropism.report.axes import LETTER, Axis, Frame, Point, written
from tropism.report.elements import STYLES, escape
from tropism.report.words import plain

SIZE = (340, 216)
LONGEST_NAME = 22


@dataclass(frozen=True)
class Series:
    """`smooth` is the number of points that are averaged for the curve (1: none); the points stay visible, joined
    unless `dots`. `band` is an interval (x, low, high) at each point; a `faint` curve is for comparison."""

    name: str
    points: Sequence[Point]
    style: int = 0
    smooth: int = 1
    dots: bool = False
    band: Sequence[tuple[float, float, float]] = ()
    faint: bool = False

    def finite(self) -> list[Point]:
        return [(x, y) for x, y in self.points if math.isfinite(x) and math.isfinite(y)]

    def interval(self) -> list[tuple[float, float, float]]:
        return [ends for ends in self.band if all(map(math.isfinite, ends))]


def smoothed(points: Sequence[Point], window: int) -> list[Point]:
    """A centred moving average of both x and y; at the ends the window is shorter."""
    half, averaged = window // 2, []
    for i in range(len(points)):
        near = points[max(i - half, 0) : i + half + 1]
        averaged.append((sum(x for x, _ in near) / len(near), sum(y for _, y in near) / len(near)))
    return averaged


def lines(
    label: str, series: Sequence[Series], x: Axis, y: Axis, marks: Mapping[str, float] | None = None, wide: bool = False
) -> str:
    """Curves over x; `marks` are named levels on the y axis. "" if there is no finite point."""
    every = [p for s in series for p in s.finite()]
    if not every:
        return ""
    levels = [b for _, b in every] + list((marks or {}).values())
    levels += [end for s in series for _, *ends in s.interval() for end in ends]
    size = (900, 320) if wide else SIZE
    frame = Frame(x, y, x.span([a for a, _ in every]), y.span(levels, 0.06), size)
    parts = [frame.drawn(), *(frame.mark(name, value) for name, value in (marks or {}).items())]
    for s in series:
        points, css = s.finite(), f"s{s.style % STYLES}"
        if s.faint:
            parts.append(frame.clipped([f"<g><title>{escape(s.name)}</title>{frame.path(points, 'faint')}</g>"]))
            continue
        if band := s.interval():
            edge = [(a, low) for a, low, _ in band] + [(a, high) for a, _, high in reversed(band)]
            drawn = " ".join(f"{frame.x(a)},{frame.y(b)}" for a, b in edge)
            parts.append(frame.clipped([f'<polygon class="band {css}" points="{drawn}"/>']))
        raw = [frame.path(points, f"raw {css}")] if s.smooth > 1 and not s.dots else []
        parts.append(frame.clipped([*raw, frame.path(smoothed(points, s.smooth), f"curve {css}")]))
        for a, b in ((a, b) for a, b in points if frame.ys[0] <= b <= frame.ys[1]):
            said = escape(f"{s.name}: {y.shown(b, 4)} at {x.label} {x.shown(a, 4)}")
            dot = f"dot {css}" if s.dots or len(points) == 1 else "hit"
            parts.append(
                f'<circle class="{dot}" cx="{frame.x(a)}" cy="{frame.y(b)}" r="3"><title>{said}</title></circle>'
            )
    return _svg(size, label, parts)


def whiskers(
    label: str, rows: Mapping[str, Mapping[str, Mapping[str, float]]], x: Axis, mark: float | None = None
) -> str:
    """For each row (a model) and each of its series a dot at the value and a whisker over its interval.

    `rows[row][series]` is {"value", "low", "high"}; `mark` is a level to compare with.
    """
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    values = [v for row in rows.values() for figure in row.values() for v in figure.values()]
    span = x.span(values if mark is None else [*values, mark], 0.05)
    step = 20 * len(names) + 10
    size = (SIZE[0], 40 + step * len(rows))
    frame = Frame(x, Axis(""), span, (0.0, 1.0), size)
    longest = min(max(map(len, rows), default=0), LONGEST_NAME)
    frame.left, frame.right, frame.top = max(78, 14 + LETTER * longest), size[0] - 52, 6
    parts = []
    for value in x.ticks(*span, frame.right - frame.left):
        at = frame.x(value)
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{frame.top}" y2="{frame.bottom}"/>')
        parts.append(written(at, frame.bottom + 15, x.shown(value), "tick middle"))
    if mark is not None:
        at = frame.x(mark)
        parts.append(f'<line class="mark" x1="{at}" x2="{at}" y1="{frame.top}" y2="{frame.bottom}"/>')
    parts.append(written(frame.right, size[1] - 3, x.label, "axis end"))
    for i, (row, found) in enumerate(rows.items()):
        parts.append(written(frame.left - 8, frame.top + step * i + step / 2 + 4, short(row), "name end"))
        for j, name in enumerate(names):
            if (figure := found.get(name)) is None:
                continue
            at, down = frame.x(figure["value"]), frame.top + step * i + 15 + 20 * j
            ends = [x.shown(figure[end]) for end in ("low", "high")]
            said = escape(f"{row}, {name}: {x.shown(figure['value'])} (95 % interval {ends[0]} to {ends[1]})")
            low, high = frame.x(figure["low"]), frame.x(figure["high"])
            line = f'<line class="whisker" x1="{low}" x2="{high}" y1="{down}" y2="{down}"/>'
            value = written(size[0] - 46, down + 4, x.shown(figure["value"], 2), "tick")
            parts.append(f'<g class="s{j % STYLES}"><title>{said}</title>{line}{_shape(j, at, down)}{value}</g>')
    return _svg(size, label, parts)


def reliability(label: str, points: Sequence[tuple[float, float, float, str]], x: Axis, y: Axis) -> str:
    """(predicted, observed, count, title) as dots with area by count, and the diagonal, where they should be."""
    xs, ys = x.span([p[0] for p in points]), y.span([p[1] for p in points])
    most, size = max(p[2] for p in points), (SIZE[0], 250)
    frame = Frame(x, y, xs, ys, size)
    parts = [frame.drawn(), frame.path([(v, v) for v in (max(xs[0], ys[0]), min(xs[1], ys[1]))], "mark")]
    parts.append(frame.path([p[:2] for p in points], "curve s0"))
    for predicted, observed, count, said in points:
        at = f'cx="{frame.x(predicted)}" cy="{frame.y(observed)}" r="{3 + 7 * math.sqrt(count / most):.1f}"'
        parts.append(f'<circle class="dot s0" {at}><title>{escape(said)}</title></circle>')
    return _svg(size, label, parts)


def bars(label: str, rows: Sequence[tuple[str, Mapping[str, float], str]], x: Axis, y: Axis, mark: float) -> str:
    """(name, {"value", "low", "high"}, title) as bars side by side, each with a whisker over its interval.

    They start at 0, so that their lengths can be compared; `mark` is a level to compare with. "" without rows.
    """
    if not rows:
        return ""
    highest = y.span([0.0, mark, *(figure["high"] for _, figure, _ in rows)])[1]
    frame = Frame(x, y, (0.0, float(len(rows))), (0.0, highest), SIZE)
    parts = [frame.drawn(x_ticks=False)]
    for i, (name, figure, said) in enumerate(rows):
        left, middle, right = (frame.x(i + share) for share in (0.15, 0.5, 0.85))
        top, low, high = (frame.y(figure[end]) for end in ("value", "low", "high"))
        shape = f'class="bar" x="{left}" y="{top}" width="{right - left:.1f}" height="{frame.bottom - top:.1f}" rx="2"'
        parts.append(f"<rect {shape}><title>{escape(said)}</title></rect>")
        parts.append(f'<line class="rule" stroke-width="2" x1="{middle}" x2="{middle}" y1="{low}" y2="{high}"/>')
        parts.append(written(middle, round(high - 5, 1), y.shown(figure["value"], 2), "tick middle"))
        parts.append(written(middle, frame.bottom + 16, name, "tick middle"))
    parts.append(frame.path([(0.0, mark), (float(len(rows)), mark)], "mark"))
    return _svg(SIZE, label, parts)


def radar(label: str, rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """For each row (a model) a polygon with a corner for each of its figures, from 0 in the middle to 1, 10 or 100.

    `rows[row][axis]` is {"value", "low", "high"}, with the same axes in each row. "" without rows.
    """
    if not rows:
        return ""
    names = list(next(iter(rows.values())))
    highest = max(found["value"] for row in rows.values() for found in row.values())
    most = next((top for top in (1.0, 10.0, 100.0) if highest <= top), highest)
    size, reach = (SIZE[0], 264), 92.0

    def at(i: int, share: float) -> Point:
        turn = 2 * math.pi * i / len(names)
        x, y = size[0] / 2 + reach * share * math.sin(turn), size[1] / 2 - reach * share * math.cos(turn)
        return round(x, 1), round(y, 1)

    def ring(shares: Sequence[float]) -> str:
        return " ".join(f"{x},{y}" for x, y in (at(i, share) for i, share in enumerate(shares)))

    parts = [f'<polygon class="grid" fill="none" points="{ring([k / 4] * len(names))}"/>' for k in range(1, 5)]
    for i, name in enumerate(names):
        (x, y), (end_x, end_y) = at(i, 1.0), at(i, 1.12)
        parts.append(f'<line class="grid" x1="{size[0] / 2}" y1="{size[1] / 2}" x2="{x}" y2="{y}"/>')
        side = "middle" if abs(end_x - size[0] / 2) < 9 else "end" if end_x < size[0] / 2 else "start"
        parts.append(written(end_x, round(end_y + 4, 1), short(name), f"name {side}"))
    parts += [written(size[0] / 2 + 4, at(0, k / 4)[1] + 12, plain(most * k / 4), "tick") for k in (2, 4)]
    for j, (row, found) in enumerate(rows.items()):
        css = f"s{j % STYLES}"
        shares = [max(found[name]["value"], 0.0) / most for name in names]
        parts.append(f'<polygon class="band {css}" points="{ring(shares)}"/>')
        parts.append(f'<polygon class="curve {css}" points="{ring(shares)}"/>')
        for i, name in enumerate(names):
            value, low, high = (plain(found[name][end]) for end in ("value", "low", "high"))
            said = escape(f"{row}, {name}: {value} (95 % interval {low} to {high})")
            x, y = at(i, shares[i])
            parts.append(f'<circle class="dot {css}" cx="{x}" cy="{y}" r="3"><title>{said}</title></circle>')
    return _svg(size, label, parts)


def short(name: str) -> str:
    """A name that fits beside a plot: of a long one without its folder the beginning and the end, which tell apart."""
    last = name if len(name) <= LONGEST_NAME else name.rpartition("/")[2] or name
    tail = LONGEST_NAME // 3
    return last if len(last) <= LONGEST_NAME else f"{last[: LONGEST_NAME - tail - 1]}…{last[-tail:]}"


def _shape(j: int, x: float, y: float) -> str:
    """A disc, then a diamond: shapes help where colours are hard to distinguish."""
    if j % 2 == 0:
        return f'<circle class="point" cx="{x}" cy="{y}" r="4.5"/>'
    return f'<path class="point" d="M{x:.1f} {y - 6:.1f}l6 6-6 6-6-6z"/>'


def _svg(size: Point, label: str, parts: Sequence[str]) -> str:
    width, height = size
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
