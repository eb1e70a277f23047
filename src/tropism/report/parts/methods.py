"""The comparison of methods: two tables and, for each method, its curves beside those of the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tropism.report.axes import Axis, Point
from tropism.report.compared import comparison, sentences, starred
from tropism.report.elements import escape, figure, scroll
from tropism.report.plots import Series, lines
from tropism.report.read import Findings
from tropism.report.words import cell, plain, title

ORDER = 40
HEADING = "The methods compared"
KL = "√KL, √(nats per completion)"
HEADINGS = {
    "equal_kl": "At equal KL: {level} nats per completion, the most that every seed of every method reached",
    "equal_spent": "At equal compute: {level} tokens through models, the most that every seed spent. Every pass of every "
    "model counts (sampling, judging, reference, critic, updates), a forward pass once and a backward pass twice",
}
NOTE = (
    "In the tables: small, 95 % intervals over prompts and seeds, with * over prompts only; p, paired by prompt, not "
    "corrected for the number of comparisons. In the plots: in colour the method with its interval, in grey the others, "
    "up to the same point."
)


def html(findings: Findings) -> str:
    report = comparison(findings)
    if report is None:
        return ""
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(report))
    tables = "".join(
        _table(report[key], HEADINGS[key].format(level=plain(report[key]["level"])))
        for key in HEADINGS
        if key in report
    )
    return f'{said}{tables}<p class="caption">{NOTE}</p><div class="plots">{_panels(report["methods"])}</div>'


def _table(found: Mapping[str, Any], heading: str) -> str:
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("true quality", "over the start", "behind the first", "learned reward")
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(title(name))}</th><td>{_cell(row["truth"])}</td>'
        f"<td>{_difference(row.get('over_start'))}</td><td>{_difference(row.get('behind_best'))}</td>"
        f"<td>{_cell(row.get('reward'))}</td></tr>"
        for name, row in found["methods"].items()
    )
    return scroll(
        heading,
        f'<table class="figures"><caption>{escape(heading)}</caption><thead><tr><td></td>{head}'
        f"</tr></thead><tbody>{rows}</tbody></table>",
    )


def _cell(figure: Mapping[str, Any] | None) -> str:
    return f"{cell(figure)}{starred(figure)}"


def _difference(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "–"
    p = f"p = {found['p']:.3f}" if found["p"] > 0.001 else "p ≤ 0.001"
    value, low, high = (plain(round(found[key], 3)) for key in ("value", "low", "high"))
    return f"{value} <small>{low} to {high} {p}</small>{starred(found)}"


def _panels(found: Mapping[str, Any]) -> str:
    """For each method three plots (two if it cannot be compared at equal compute), with the other methods in grey."""
    parts = []
    for name, method in found.items():
        for key, across, heading, label, y in (
            ("truth", "kl", "true quality over √KL", KL, "truth's units"),
            ("reward", "kl", "learned reward over √KL", KL, "reward units"),
            ("truth", "spent", "true quality over tokens", "tokens through models", "truth's units"),
        ):
            shown = {n: m for n, m in found.items() if across == "kl" or not m["at_answers"]}
            if name not in shown:
                continue
            points = _points(method["curve"], key, across)
            far = max((x for x, _ in points), default=0.0) or None
            behind = {n: _points(m["curve"], key, across) for n, m in shown.items() if n != name}
            others = [Series(title(n), _until(p, far), faint=True) for n, p in behind.items()]
            band = [(_x(row, across), row[key]["low"], row[key]["high"]) for row in method["curve"]]
            said = f"{title(name)}: {heading}"
            own = Series(title(name), points, band=band)
            parts.append(figure(said, lines(said, [*others, own], Axis(label, 0.0, far), Axis(y))))
    return "".join(parts)


def _points(curve: Sequence[Mapping[str, Any]], key: str, across: str) -> list[Point]:
    return [(_x(row, across), row[key]["value"]) for row in curve]


def _until(points: Sequence[Point], far: float | None) -> list[Point]:
    """A curve up to the point where it first exceeds x = `far`."""
    end = next((i for i, (x, _) in enumerate(points) if far is not None and x > far), None)
    if not end or far is None:
        return list(points) if end is None else []
    (x0, y0), (x1, y1) = points[end - 1], points[end]
    return [*points[:end], (far, y0 + (y1 - y0) * (far - x0) / (x1 - x0))]


def _x(row: Mapping[str, Any], across: str) -> float:
    return math.sqrt(row["kl"]) if across == "kl" else row["spent"]
