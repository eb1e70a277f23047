"""Pieces of HTML without axes: escaped text, scrolling regions, a plot in its frame, the time line."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

STYLES = 6  # of the series in a plot: colour, dash and shape differ
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def escape(value: object) -> str:
    """Any text, safe in HTML text and attributes; characters that HTML forbids become �."""
    return html.escape(_CONTROL.sub("�", str(value)))


def timeline(label: str, stages: Sequence[tuple[str, float, str]]) -> str:
    """(name, seconds, text) below each other, each a bar that starts where the previous one ended. It is a table, for
    narrow screens and screen readers."""
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
    """Content that may be wider than the screen, in a region that can also be scrolled with the keyboard."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>'


def figure(heading: str, svg: str, series: Sequence[str] = (), caption: str = "", wide: bool = False) -> str:
    """A plot with heading, legend (series in style 0, 1, …) and caption; "" without a plot."""
    if not svg:
        return ""
    key = "".join(f'<span class="key s{i % STYLES}"><i></i>{escape(name)}</span>' for i, name in enumerate(series))
    said = f'<p class="caption">{escape(caption)}</p>' if caption else ""
    css, svg = (' class="wide"', scroll(heading, svg)) if wide else ("", svg)
    return f"<figure{css}><figcaption>{escape(heading)}{key}</figcaption>{svg}{said}</figure>"
