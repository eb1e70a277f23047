"""Proxy and true quality over √KL, the plot of arXiv 2210.10760: with reward hacking the two curves separate."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tropism.report.axes import Axis
from tropism.report.elements import figure
from tropism.report.parts._panels import window
from tropism.report.plots import Series, lines
from tropism.report.read import Findings
from tropism.report.verdict import FEWEST_ROUNDS, described, hacking, rl_stages
from tropism.report.words import title

ORDER = 90
HEADING = "Is the reward being hacked?"
TRUTH = "true quality"
PROXY = "learned reward"


def html(findings: Findings) -> str:
    parts = []
    for stage in rl_stages(findings):
        kept = [m for m in stage.metrics if all(math.isfinite(m.get(k, math.nan)) for k in ("reward", "truth", "kl"))]
        if len(kept) < 3:
            continue
        near = sorted(kept, key=lambda m: m["kl"])  # rounds with similar KL are averaged
        far = [math.sqrt(max(m["kl"], 0.0)) for m in near]
        curves = [
            Series(name, list(zip(far, _standardised([m[key] for m in near]))), i, window(near), dots=True)
            for i, (name, key) in enumerate(((PROXY, "reward"), (TRUTH, "truth")))
        ]
        label = f"{PROXY} and {TRUTH} over the distance that {title(stage.id)} went"
        svg = lines(
            label,
            curves,
            Axis("√KL, √(nats per completion)", low=0.0),
            Axis("standard deviations over the rounds"),
            wide=True,
        )
        heading = f"{title(stage.id)}: proxy against true quality"
        parts.append(figure(heading, svg, [c.name for c in curves], _told(kept), wide=True))
    return "".join(parts)


def _told(kept: Sequence[Mapping[str, Any]]) -> str:
    """The meaning of the two curves, in words."""
    seen = "A dot is a round, a curve the mean of dots near in KL; where the curves separate, the reward is hacked. "
    if len(kept) < FEWEST_ROUNDS:
        return f"{seen}With {len(kept)} rounds no trend can be told from noise."
    if (found := hacking(kept)) is not None:
        return f"{seen}Here they part: {described(found)}."
    return f"{seen}Here no fall of the true quality under a rising reward can be told from noise."


def _standardised(values: Sequence[float]) -> list[float]:
    mean, spread = statistics.mean(values), statistics.pstdev(values)
    return [(v - mean) / spread if spread else 0.0 for v in values]
