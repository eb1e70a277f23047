"""The facts that each stage left in its DONE."""

from __future__ import annotations

from typing import Any

from tropism.report.elements import escape
from tropism.report.read import Findings
from tropism.report.words import title

ORDER = 110
HEADING = "Facts of each stage"
FACTS = {
    "bytes_per_token": "bytes per token",
    "tokens": "tokens",
    "tokens_in_data": "tokens in the data",
    "held_out_loss": "held-out loss",
    "held_out_loss_before": "held-out loss before",
    "held_out_accuracy": "share of held-out pairs in the right order",
    "held_out_pairs": "held-out pairs",
    "bits_per_byte": "held-out bits per byte",
    "gzip_bits_per_byte": "gzip's bits per byte on the same text",
    "held_out_bytes": "held-out bytes",
    "left_out": "broken records left out",
    "too_long": "left out as too long",
    "mean_tokens": "tokens per completion",
    "stop_rate": "share that ended by itself",
}


def html(findings: Findings) -> str:
    items = []
    for stage in (s for s in findings.stages if s.facts):
        said = "; ".join(f"{FACTS.get(k, k.replace('_', ' '))}: {_fact(v)}" for k, v in stage.facts.items())
        items.append(f"<dt>{escape(title(stage.id))} <small>{escape(stage.kind)}</small></dt><dd>{escape(said)}</dd>")
    return f"<dl>{''.join(items)}</dl>" if items else ""


def _fact(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{value + 0.0 if isinstance(value, float) else value:,}".replace("-", "−")
