"""The part of the page where methods are compared: two tables and, for each method, its way against all the others'."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tropism.report.comparison import PROMPTS_ONLY, comparable, compare, methods
from tropism.report.plots import Axis, Point, Series, escape, figure, lines, plain, scroll
from tropism.report.read import Findings
from tropism.report.words import cell, number, title

KL = "√KL, √(nats per completion)"
STAR = "*"
HEADINGS = {
    "equal_kl": "At equal KL: {level} nats per completion, the most that every seed of every method reached",
    "equal_spent": "At equal compute: {level} tokens through models, the most that every seed spent. Every pass of every "
    "model counts (sampling, judging, reference, critic, updates), a forward pass once and a backward pass twice",
}

NOTE = (
    "In the tables: small, 95 % intervals over prompts and seeds, with * over prompts only; p, paired by prompt, not "
    "corrected for the number of comparisons. In the plots: in colour the method with its interval, in grey the others as "
    "far as it went."
)


def comparison(findings: Findings) -> dict[str, Any] | None:
    """What the report says of the methods; None unless two or more were looked at in the same way."""
    found, others = comparable(methods(findings))
    return compare(found, others) if len(found) > 1 else None


def section(findings: Findings) -> str:
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


def sentences(report: Mapping[str, Any]) -> list[str]:
    """Who leads at equal KL and compute, what cannot be told apart from it, who over-optimises."""
    said = []
    for key, what in (("equal_kl", "equal KL"), ("equal_spent", "equal compute")):
        if key not in report:
            continue
        rows = report[key]["methods"]
        first, *rest = rows
        near = [title(name) for name in rest if rows[name].get("behind_best", {"high": 0.0})["high"] >= 0]
        quality = number(rows[first]["truth"]["value"])
        tied = f"; not told apart from it: {', '.join(near)}" if near else "; every other is told apart from it"
        only = any(starred(rows[name].get("behind_best")) for name in rest)
        alone = f", over prompts only where marked {STAR}" if only else ""
        said.append(f"At {what} {title(first)} has the highest true quality, {quality}{tied}{alone}.")
    if once := [title(name) for name, m in report["methods"].items() if m["seeds"] == 1 and not m["at_answers"]]:
        said.append(
            f"{STAR} Over prompts only. One seed each, which tells nothing of how another would have ended: "
            f"{', '.join(once)}."
        )
    for name, method in report["methods"].items():
        if far := method["over_optimises"]:
            where = "" if len(far["seeds"]) == method["seeds"] else f" in {_seeds(far['seeds'])} of {method['seeds']}"
            said.append(
                f"{title(name)} over-optimises{where}: from {number(far['kl'])} nats on the true quality fell from "
                f"{number(far['truth_best'])} to {number(far['truth_last'])} while the learned reward went from "
                f"{number(far['reward_best'])} to {number(far['reward_last'])}."
            )
    if not any(m["over_optimises"] for m in report["methods"].values()):
        said.append(
            "No method is seen to over-optimise: no true quality falls while its learned reward holds or rises."
        )
    if searches := [title(name) for name, m in report["methods"].items() if m["at_answers"]]:
        said.append(
            f"{', '.join(searches)}: it is not trained and has no seeds, its KL is the bound log n − (n−1)/n, and its "
            "tokens are paid at every answer, so that it has no place at equal compute."
        )
    if report["other_reward"]:
        others = ", ".join(title(name) for name in report["other_reward"])
        said.append(f"{others}: its learned reward is another judge's, in other units.")
    if report["left_out"]:
        others = ", ".join(title(name) for name in report["left_out"])
        said.append(f"Left out, as of another start, or looked at with other prompts, truth or sampling: {others}.")
    return said


def starred(figure: Mapping[str, Any] | None) -> str:
    """The mark of a figure that says nothing of other seeds."""
    return STAR if figure and figure["over"] == PROMPTS_ONLY else ""


def _seeds(numbers: Sequence[int]) -> str:
    return f"seed {numbers[0]}" if len(numbers) == 1 else f"seeds {', '.join(map(str, numbers))}"


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
    """For each method three pictures (two if it has no place at equal compute), the other methods faint behind it."""
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
    """A curve up to where it first goes beyond x = `far`."""
    end = next((i for i, (x, _) in enumerate(points) if far is not None and x > far), None)
    if not end or far is None:
        return list(points) if end is None else []
    (x0, y0), (x1, y1) = points[end - 1], points[end]
    return [*points[:end], (far, y0 + (y1 - y0) * (far - x0) / (x1 - x0))]


def _x(row: Mapping[str, Any], across: str) -> float:
    return math.sqrt(row["kl"]) if across == "kl" else row["spent"]
