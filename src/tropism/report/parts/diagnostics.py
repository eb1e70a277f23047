"""Metrics of the algorithm as small plots; metrics that did not change over the rounds are listed in a line instead."""

from __future__ import annotations

import math

from tropism.report.axes import Axis
from tropism.report.elements import escape
from tropism.report.parts._panels import grid, panel
from tropism.report.read import Findings
from tropism.report.verdict import rl_stages
from tropism.report.words import title

ORDER = 100
HEADING = "Diagnostics"
STILL = 1e-6  # a smaller change over the rounds is only rounding
PANELS: dict[str, tuple[str, Axis]] = {
    "entropy": ("Entropy of the policy", Axis("nats per token", zero=True)),
    "clip_fraction": ("Clipped updates", Axis("share of tokens", low=0.0, percent=True)),
    "kl_to_old": ("KL to the policy that sampled", Axis("nats per token", zero=True)),
    "engine_apart_max": ("Engine against trainer, largest difference", Axis("nats", zero=True)),
    "explained_variance": (
        "Explained variance of the critic",
        Axis("1 is perfect; below −1 is cut off", -1.0, 1.0),
    ),
    "value_loss": ("Loss of the critic", Axis("squared reward units", low=0.0)),
    "stop_rate": ("Answers that end by themselves", Axis("share of completions", high=1.0, percent=True)),
    "tokens": ("Length", Axis("tokens per completion")),
    "not_scored": ("Answers without a score", Axis("share of completions", low=0.0, percent=True)),
    "kl_coefficient": ("KL coefficient", Axis("reward units per nat")),
}


def html(findings: Findings) -> str:
    """Small plots; metrics that did not change over the rounds are listed in a line instead."""
    parts = []
    for stage in rl_stages(findings):
        level = []
        panels = []
        for key, (heading, axis) in PANELS.items():
            values = [m[key] for m in stage.metrics if math.isfinite(m.get(key, math.nan))]
            if values and max(values) - min(values) < STILL:
                level.append(f"{heading}: {axis.shown(round(values[0], 6))} ({axis.label})")
            else:
                panels.append(panel(stage, key, heading, axis))
        parts.append(grid(panels))
        if level:
            parts.append(f"<p>{escape(title(stage.id))}, the same in every round. {escape('; '.join(level))}.</p>")
    return "".join(parts)
