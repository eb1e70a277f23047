"""How names and numbers are written, in the report and in its sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NAMES = {
    "sft": "SFT",
    "ppo": "PPO",
    "grpo": "GRPO",
    "rloo": "RLOO",
    "dpo": "DPO",
    "apa": "APA",
    "rest": "ReST",
    "kto": "KTO",
    "gkd": "GKD",
}


def title(name: str) -> str:
    """The name of a model or stage as people write it."""
    return NAMES.get(name, name)


def overlap(found: Mapping[str, Any]) -> str:
    """Which prompts of an evaluation are in training sets of the stages it depends on; "" if this was not checked."""
    if not found:
        return ""
    prompts, stages = found["prompts"], found["stages"]
    if not stages:
        return "The training data of the models is not known, so it is not known whether the prompts were held out."
    if not found["met"]:
        return f"None of the {prompts:,} prompts is in a training set: {', '.join(map(title, stages))}."
    each = ", ".join(f"{title(id)} {met:,}" for id, met in stages.items())
    return f"Not all held out: {found['met']:,} of the {prompts:,} prompts are in a training set ({each})."


def plain(value: float, digits: int = 3) -> str:
    """`digits` significant digits, thousands separated, a true minus sign, an exponent only below 0.0001."""
    value += 0.0  # no minus before a zero
    if 0 < abs(value) < 1e-4:
        return f"{value:.{digits}g}".replace("e-0", "e-").replace("-", "−")
    places = max(digits - 1 - math.floor(math.log10(abs(value))), 0) if value else 0
    text = f"{value:,.{places}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def percent(value: float) -> str:
    return f"{fixed(100 * value, 0)}\u202f%"


def interval(figure: Mapping[str, float]) -> str:
    """`64–78 %` of a share."""
    return f"{fixed(100 * figure['low'], 0)}–{percent(figure['high'])}"


def number(value: float) -> str:
    """Two digits after the point, a true minus sign."""
    return fixed(value, 2)


def fixed(value: float, places: int) -> str:
    """`places` digits after the point, a true minus sign, but none before a zero."""
    return f"{round(value, places) + 0.0:.{places}f}".replace("-", "−")


def left_out(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """For each model the figures that do not apply to it, with the reason."""
    return [
        f"{title(name)} has no {figure.replace('_', ' ')}: {reason}."
        for name, figures in models.items()
        for figure, reason in figures.get("left_out", {}).items()
    ]


def duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{seconds:.0f} s" if seconds < 100 else f"{whole // 60} min {whole % 60:02d} s"


def cell(figure: Mapping[str, float] | None, share: bool = False) -> str:
    """A measured value with its interval, as HTML."""
    if not figure:
        return "–"
    scale, unit = (100, "\u202f%") if share else (1, "")
    shown = [plain(scale * round(figure[key], 3 if share else 2)) for key in ("value", "low", "high")]
    return f"{shown[0]}{unit} <small>{shown[1]} to {shown[2]}</small>"
