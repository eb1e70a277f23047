"""Small plots as inline SVG: lines, dots and whiskers, bars, a reliability scatter; a time line as a table. No library,
no script.

Colours are classes (`s0` … `s5`) that the style sheet fills for light and dark; a series is also told apart by its dash
or its shape. Every point carries its numbers as a <title>. Left out: zoom and tooltips that need scripts.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
STYLES = 6
SIZE = (340, 216)
LETTER = 6.6  # about as wide as one is, in the picture's units
LONGEST_NAME = 22
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def escape(value: object) -> str:
    """Any text, safe in HTML text and attributes; characters that HTML forbids become �."""
    return html.escape(_CONTROL.sub("�", str(value)))


@dataclass(frozen=True)
class Series:
    """`smooth` points are averaged for the curve (1: none); the points stay visible, joined unless `dots`. `band` is
    an interval (x, low, high) at each point; a `faint` curve is there to compare with."""

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


@dataclass(frozen=True)
class Axis:
    """What an axis shows. Without `low` or `high` it takes them from the data, and with `zero` it reaches down to 0 and
    further if the data do; `whole` marks whole numbers only."""

    label: str
    low: float | None = None
    high: float | None = None
    percent: bool = False
    zero: bool = False
    whole: bool = False

    def span(self, values: Sequence[float], pad: float = 0.0) -> tuple[float, float]:
        values = [*values, 0.0] if self.zero else values
        low = min(values) if self.low is None else self.low
        stands = self.low is not None or (self.zero and low == 0)
        high = max(values) if self.high is None else self.high
        if high <= low:  # one value, or all of them beyond a fixed end
            room = abs(low) * 0.1 or 1.0
            return low - (0 if stands else room), low + room
        room = (high - low) * pad
        return low - (0 if stands else room), high + (room if self.high is None else 0)

    def ticks(self, low: float, high: float, width: float, most: int = 5) -> list[float]:
        """Round numbers along `width`, fewer where their labels would run into each other."""
        for fewer in range(most, 0, -1):
            found = [v for v in ticks(low, high, fewer) if not self.whole or v == round(v)]
            if sum((len(self.shown(v)) + 2) * LETTER for v in found) <= width:
                break
        return found

    def shown(self, value: float, digits: int = 3) -> str:
        return plain(100 * value, digits) + "\u202f%" if self.percent else plain(value, digits)


def plain(value: float, digits: int = 3) -> str:
    """`digits` significant digits, thousands apart, a true minus sign, an exponent only below 0.0001."""
    value += 0.0  # no minus before a zero
    if 0 < abs(value) < 1e-4:
        return f"{value:.{digits}g}".replace("e-0", "e-").replace("-", "−")
    places = max(digits - 1 - math.floor(math.log10(abs(value))), 0) if value else 0
    text = f"{value:,.{places}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) within [low, high], about `most` of them."""
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = power * next(nice for limit, nice in ((1.5, 1), (3.5, 2), (7.5, 5), (10.1, 10)) if rough <= limit * power)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def smoothed(points: Sequence[Point], window: int) -> list[Point]:
    """A centred moving average of x and y alike; at the ends the window is cut off."""
    half, averaged = window // 2, []
    for i in range(len(points)):
        near = points[max(i - half, 0) : i + half + 1]
        averaged.append((sum(x for x, _ in near) / len(near), sum(y for _, y in near) / len(near)))
    return averaged


class _Frame:
    """Data coordinates to the picture's, and the axes."""

    def __init__(self, x: Axis, y: Axis, xs: tuple[float, float], ys: tuple[float, float], size: Point) -> None:
        self.axes, self.xs, self.ys = (x, y), xs, ys
        self.width, self.height = size
        widest = max((len(y.shown(value)) for value in ticks(*ys, most=4)), default=0)
        self.left, self.right, self.top, self.bottom = (
            max(50, 8 + LETTER * widest),
            self.width - 14,
            24,
            self.height - 36,
        )

    def x(self, value: float) -> float:
        return round(self.left + (value - self.xs[0]) / (self.xs[1] - self.xs[0]) * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        return round(self.bottom - (value - self.ys[0]) / (self.ys[1] - self.ys[0]) * (self.bottom - self.top), 1)

    def clipped(self, parts: Sequence[str]) -> str:
        """Curves, cut at the ends of the y axis."""
        box = (self.left, self.top, self.right - self.left, self.bottom - self.top)
        place = 'x="{0}" y="{1}" width="{2}" height="{3}" viewBox="{0} {1} {2} {3}"'.format(*box)
        return f"<svg {place}>{''.join(parts)}</svg>"

    def path(self, points: Sequence[Point], css: str) -> str:
        joined = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)
        return f'<polyline class="{css}" points="{joined}"/>'

    def drawn(self, x_ticks: bool = True) -> str:
        x, y = self.axes
        parts = [_text(2, 12, y.label, "axis"), _text(self.right, self.height - 4, x.label, "axis end")]
        for value in ticks(*self.ys, most=4):
            at = self.y(value)
            parts.append(f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{at}" y2="{at}"/>')
            parts.append(_text(self.left - 6, at + 4, y.shown(value), "tick end"))
        for value in x.ticks(*self.xs, self.right - self.left) if x_ticks else ():
            parts.append(_text(self.x(value), self.bottom + 17, x.shown(value), "tick middle"))
        parts.append(f'<line class="rule" x1="{self.left}" x2="{self.right}" y1="{self.bottom}" y2="{self.bottom}"/>')
        return "".join(parts)

    def mark(self, name: str, value: float) -> str:
        """A dashed level with its name."""
        at = self.y(value)
        line = f'<line class="mark" x1="{self.left}" x2="{self.right}" y1="{at}" y2="{at}"/>'
        return line + _text(self.right, at - 4, name, "tick end")


def lines(
    label: str, series: Sequence[Series], x: Axis, y: Axis, marks: Mapping[str, float] | None = None, wide: bool = False
) -> str:
    """Curves over x; `marks` are named levels on the y axis. Empty if there is no finite point."""
    every = [p for s in series for p in s.finite()]
    if not every:
        return ""
    levels = [b for _, b in every] + list((marks or {}).values())
    levels += [end for s in series for _, *ends in s.interval() for end in ends]
    size = (900, 320) if wide else SIZE
    frame = _Frame(x, y, x.span([a for a, _ in every]), y.span(levels, 0.06), size)
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
    """For each row (a model) and each series in it a dot at the value and a whisker over its interval.

    `rows[row][series]` is {"value", "low", "high"}; `mark` is a level to compare with.
    """
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    values = [v for row in rows.values() for figure in row.values() for v in figure.values()]
    span = x.span(values if mark is None else [*values, mark], 0.05)
    step = 20 * len(names) + 10
    size = (SIZE[0], 40 + step * len(rows))
    frame = _Frame(x, Axis(""), span, (0.0, 1.0), size)
    longest = min(max(map(len, rows), default=0), LONGEST_NAME)
    frame.left, frame.right, frame.top = max(78, 14 + LETTER * longest), size[0] - 52, 6
    parts = []
    for value in x.ticks(*span, frame.right - frame.left):
        at = frame.x(value)
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{frame.top}" y2="{frame.bottom}"/>')
        parts.append(_text(at, frame.bottom + 15, x.shown(value), "tick middle"))
    if mark is not None:
        at = frame.x(mark)
        parts.append(f'<line class="mark" x1="{at}" x2="{at}" y1="{frame.top}" y2="{frame.bottom}"/>')
    parts.append(_text(frame.right, size[1] - 3, x.label, "axis end"))
    for i, (row, found) in enumerate(rows.items()):
        parts.append(_text(frame.left - 8, frame.top + step * i + step / 2 + 4, short(row), "name end"))
        for j, name in enumerate(names):
            if (figure := found.get(name)) is None:
                continue
            at, down = frame.x(figure["value"]), frame.top + step * i + 15 + 20 * j
            ends = [x.shown(figure[end]) for end in ("low", "high")]
            said = escape(f"{row}, {name}: {x.shown(figure['value'])} (95 % interval {ends[0]} to {ends[1]})")
            low, high = frame.x(figure["low"]), frame.x(figure["high"])
            line = f'<line class="whisker" x1="{low}" x2="{high}" y1="{down}" y2="{down}"/>'
            value = _text(size[0] - 46, down + 4, x.shown(figure["value"], 2), "tick")
            parts.append(f'<g class="s{j % STYLES}"><title>{said}</title>{line}{_shape(j, at, down)}{value}</g>')
    return _svg(size, label, parts)


def reliability(label: str, points: Sequence[tuple[float, float, float, str]], x: Axis, y: Axis) -> str:
    """(predicted, observed, count, title) as dots with area by count, and the diagonal on which they ought to lie."""
    xs, ys = x.span([p[0] for p in points]), y.span([p[1] for p in points])
    most, size = max(p[2] for p in points), (SIZE[0], 250)
    frame = _Frame(x, y, xs, ys, size)
    parts = [frame.drawn(), frame.path([(v, v) for v in (max(xs[0], ys[0]), min(xs[1], ys[1]))], "mark")]
    parts.append(frame.path([p[:2] for p in points], "curve s0"))
    for predicted, observed, count, said in points:
        at = f'cx="{frame.x(predicted)}" cy="{frame.y(observed)}" r="{3 + 7 * math.sqrt(count / most):.1f}"'
        parts.append(f'<circle class="dot s0" {at}><title>{escape(said)}</title></circle>')
    return _svg(size, label, parts)


def bars(label: str, rows: Sequence[tuple[str, Mapping[str, float], str]], x: Axis, y: Axis, mark: float) -> str:
    """(name, {"value", "low", "high"}, title) as bars side by side, each with a whisker over its interval.

    They stand on 0, so that their lengths can be compared; `mark` is a level to compare with. Empty without rows.
    """
    if not rows:
        return ""
    highest = y.span([0.0, mark, *(figure["high"] for _, figure, _ in rows)])[1]
    frame = _Frame(x, y, (0.0, float(len(rows))), (0.0, highest), SIZE)
    parts = [frame.drawn(x_ticks=False)]
    for i, (name, figure, said) in enumerate(rows):
        left, middle, right = (frame.x(i + share) for share in (0.15, 0.5, 0.85))
        top, low, high = (frame.y(figure[end]) for end in ("value", "low", "high"))
        shape = f'class="bar" x="{left}" y="{top}" width="{right - left:.1f}" height="{frame.bottom - top:.1f}" rx="2"'
        parts.append(f"<rect {shape}><title>{escape(said)}</title></rect>")
        parts.append(f'<line class="rule" stroke-width="2" x1="{middle}" x2="{middle}" y1="{low}" y2="{high}"/>')
        parts.append(_text(middle, round(high - 5, 1), y.shown(figure["value"], 2), "tick middle"))
        parts.append(_text(middle, frame.bottom + 16, name, "tick middle"))
    parts.append(frame.path([(0.0, mark), (float(len(rows)), mark)], "mark"))
    return _svg(SIZE, label, parts)


def timeline(label: str, stages: Sequence[tuple[str, float, str]]) -> str:
    """(name, seconds, text) one below the other, each a bar from where the one before it ended: a table, so that it is
    read on a narrow screen and aloud."""
    total, began, rows = sum(seconds for _, seconds, _ in stages) or 1.0, 0.0, []
    for name, seconds, said in stages:
        place = f'x="{100 * began / total:.1f}" y="0" width="{max(100 * seconds / total, 0.5):.1f}" height="10"'
        bar = (
            f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect class="bar" {place}/></svg>'
        )
        rows.append(
            f'<tr title="{escape(said)}"><th scope="row">{escape(name)}</th><td class="track">{bar}</td>'
            f"<td>{seconds:.0f}\u202fs</td></tr>"
        )
        began += seconds
    return f'<table class="timeline" aria-label="{escape(label)}"><tbody>{"".join(rows)}</tbody></table>'


def scroll(label: str, content: str) -> str:
    """What may be wider than the screen, in a region that the keyboard can move too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>'


def short(name: str) -> str:
    """A name that fits beside a plot."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def figure(heading: str, svg: str, series: Sequence[str] = (), caption: str = "", wide: bool = False) -> str:
    """A plot with its heading, the key to its series (those of style 0, 1, …) and a line of text; "" without a plot."""
    if not svg:
        return ""
    key = "".join(f'<span class="key s{i % STYLES}"><i></i>{escape(name)}</span>' for i, name in enumerate(series))
    said = f'<p class="caption">{escape(caption)}</p>' if caption else ""
    css, svg = (' class="wide"', scroll(heading, svg)) if wide else ("", svg)
    return f"<figure{css}><figcaption>{escape(heading)}{key}</figcaption>{svg}{said}</figure>"


def _shape(j: int, x: float, y: float) -> str:
    """A disc, then a diamond: shapes tell apart what colours may not."""
    if j % 2 == 0:
        return f'<circle class="point" cx="{x}" cy="{y}" r="4.5"/>'
    return f'<path class="point" d="M{x:.1f} {y - 6:.1f}l6 6-6 6-6-6z"/>'


def _text(x: float, y: float, said: str, css: str) -> str:
    return f'<text class="{css}" x="{x}" y="{y}">{escape(said)}</text>'


def _svg(size: Point, label: str, parts: Sequence[str]) -> str:
    width, height = size
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
