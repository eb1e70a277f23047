"""Reward, truth and KL per round, for each stage that went by rounds."""

from __future__ import annotations

from tropism.report.axes import Axis
from tropism.report.parts._panels import grid, panel
from tropism.report.read import Findings
from tropism.report.verdict import rl_stages

ORDER = 80
HEADING = "Reward, truth and KL"


def html(findings: Findings) -> str:
    """Reward, truth and KL per round, for each stage that went by rounds."""
    parts = []
    for stage in rl_stages(findings):
        for key, heading, axis in (
            ("reward", "Learned reward", Axis("reward units")),
            ("truth", "True quality (never trained on)", Axis("truth's units")),
            ("kl", "KL to the reference", Axis("nats per completion", zero=True)),
        ):
            parts.append(panel(stage, key, heading, axis))
    return grid(parts)
