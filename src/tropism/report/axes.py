"""The axes of a plot: ticks at round numbers, the range of an axis, and conversion of data to picture coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tropism.report.elements import escape
from tropism.report.words import plain

Point = tuple[float, float]
LETTER = 6.6  # the approximate width of a letter, in the picture's units


@dataclass(frozen=True)
class Axis:
    """An axis. Without `low` or `high` it takes them from the data; with `zero` it goes down to 0, or lower if the data
    do; `whole` puts ticks at whole numbers only."""

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
        if high <= low:  # only one value, or all of them outside a fixed end
            room = abs(low) * 0.1 or 1.0
            return low - (0 if stands else room), low + room
        room = (high - low) * pad
        return low - (0 if stands else room), high + (room if self.high is None else 0)

    def ticks(self, low: float, high: float, width: float, most: int = 5) -> list[float]:
        """Round numbers along `width`, fewer if their labels would overlap."""
        for fewer in range(most, 0, -1):
            found = [v for v in ticks(low, high, fewer) if not self.whole or v == round(v)]
            if sum((len(self.shown(v)) + 2) * LETTER for v in found) <= width:
                break
        return found

    def shown(self, value: float, digits: int = 3) -> str:
        return plain(100 * value, digits) + "\u202f%" if self.percent else plain(value, digits)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) within [low, high], about `most` of them."""
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = power * next(nice for limit, nice in ((1.5, 1), (3.5, 2), (7.5, 5), (10.1, 10)) if rough <= limit * power)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


class Frame:
    """Converts data coordinates to picture coordinates, and draws the axes."""

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
        parts = [written(2, 12, y.label, "axis"), written(self.right, self.height - 4, x.label, "axis end")]
        for value in ticks(*self.ys, most=4):
            at = self.y(value)
            parts.append(f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{at}" y2="{at}"/>')
            parts.append(written(self.left - 6, at + 4, y.shown(value), "tick end"))
        for value in x.ticks(*self.xs, self.right - self.left) if x_ticks else ():
            parts.append(written(self.x(value), self.bottom + 17, x.shown(value), "tick middle"))
        parts.append(f'<line class="rule" x1="{self.left}" x2="{self.right}" y1="{self.bottom}" y2="{self.bottom}"/>')
        return "".join(parts)

    def mark(self, name: str, value: float) -> str:
        """A dashed line at a level, with its name."""
        at = self.y(value)
        line = f'<line class="mark" x1="{self.left}" x2="{self.right}" y1="{at}" y2="{at}"/>'
        return line + written(self.right, at - 4, name, "tick end")


def written(x: float, y: float, said: str, css: str) -> str:
    return f'<text class="{css}" x="{x}" y="{y}">{escape(said)}</text>'
