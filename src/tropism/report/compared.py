"""The comparison of methods in sentences: the best one, those not significantly different from it,
over-optimisation."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from tropism.report.comparison import PROMPTS_ONLY, comparable, compare, methods
from tropism.report.read import Findings
from tropism.report.words import number, title

STAR = "*"


@functools.lru_cache(maxsize=1)  # report.json and report.html of one run need the same
def comparison(findings: Findings) -> Mapping[str, Any] | None:
    """The report's entry on the methods; None unless two or more were evaluated in the same way."""
    found, others = comparable(methods(findings))
    return compare(found, others) if len(found) > 1 else None


def sentences(report: Mapping[str, Any]) -> list[str]:
    """The best method at equal KL and compute, those not significantly different from it, and which over-optimise."""
    said = []
    for key, what in (("equal_kl", "equal KL"), ("equal_spent", "equal compute")):
        if key not in report:
            continue
        rows = report[key]["methods"]
        first, *rest = rows
        near = [title(name) for name in rest if rows[name].get("behind_best", {"high": 0.0})["high"] >= 0]
        quality = number(rows[first]["truth"]["value"])
        tied = f"; not significantly lower: {', '.join(near)}" if near else "; all others are significantly lower"
        only = any(starred(rows[name].get("behind_best")) for name in rest)
        alone = f", over prompts only where marked {STAR}" if only else ""
        said.append(f"At {what} {title(first)} has the highest true quality, {quality}{tied}{alone}.")
    if once := [title(name) for name, m in report["methods"].items() if m["seeds"] == 1 and not m["at_answers"]]:
        said.append(
            f"{STAR} Over prompts only. One seed each, so nothing is known about other seeds: {', '.join(once)}."
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
        said.append("No method shows over-optimisation: no true quality falls while its learned reward holds or rises.")
    if searches := [title(name) for name, m in report["methods"].items() if m["at_answers"]]:
        said.append(
            f"{', '.join(searches)}: it is not trained and has no seeds, its KL is the bound log n − (n−1)/n, and it "
            "costs its tokens at every answer, so it cannot be compared at equal compute."
        )
    if report["other_reward"]:
        others = ", ".join(title(name) for name in report["other_reward"])
        said.append(f"{others}: its learned reward comes from another judge, in other units.")
    if report["left_out"]:
        others = ", ".join(title(name) for name in report["left_out"])
        said.append(f"Left out, because the start, or the prompts, truth or sampling of the looks differ: {others}.")
    return said


def starred(figure: Mapping[str, Any] | None) -> str:
    """The mark of a figure that does not cover other seeds."""
    return STAR if figure and figure["over"] == PROMPTS_ONLY else ""


def _seeds(numbers: Sequence[int]) -> str:
    return f"seed {numbers[0]}" if len(numbers) == 1 else f"seeds {', '.join(map(str, numbers))}"
