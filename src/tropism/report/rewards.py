"""The parts of the page about rewards: the reward model, the rounds, proxy against truth, what the algorithm did.

Proxy against true quality over √KL is the picture of arXiv 2210.10760, where reward hacking shows: the two curves part.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tropism.report.plots import Axis, Point, Series, bars, escape, figure, lines, plain, reliability, scroll, whiskers
from tropism.report.read import Findings, Finished
from tropism.report.verdict import FEWEST_ROUNDS, described, hacking, rl_stages
from tropism.report.words import cell, interval, percent, title

STILL = 1e-6  # a change over the rounds that is only rounding
TRUTH = "true quality"
PROXY = "learned reward"
PANELS: dict[str, tuple[str, Axis]] = {
    "entropy": ("Entropy of the policy", Axis("nats per token", zero=True)),
    "clip_fraction": ("Clipped updates", Axis("share of tokens", low=0.0, percent=True)),
    "kl_to_old": ("KL to the policy that sampled", Axis("nats per token", zero=True)),
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
QUALITIES = {
    "pair_accuracy": "held-out pairs put in the right order",
    "length_controlled_accuracy": "the same of pairs of nearly equal length",
    "calibration_error": "expected calibration error (ECE)",
    "kendall_tau": "Kendall's τ with the truth, within a prompt",
    "length_correlation": "correlation of the score with length",
    "length_correlation_truth": "correlation of the truth with length",
}
SHARES = {"pair_accuracy", "length_controlled_accuracy", "calibration_error"}


def reward_model(findings: Findings) -> str:
    found = findings.evaluation.get("reward_model")
    if not found:
        return ""
    counts = found.get("counted", {})
    rows = "".join(
        f'<tr><th scope="row">{escape(said)}</th><td>{cell(found[key], key in SHARES)}</td>'
        f"<td>{_counted(counts.get(key), key)}</td></tr>"
        for key, said in QUALITIES.items()
        if key in found
    )
    counted = f"{found.get('n_pairs', 0):,} pairs of {found.get('n_groups', 0):,} held-out prompts, against "
    counted += f"the judge “{escape(found.get('against', ''))}”"
    lengths = {
        said: {"correlation": found[key]}
        for key, said in {"length_correlation": "reward", "length_correlation_truth": "truth"}.items()
        if key in found
    }
    error = found.get("calibration_error")
    told = f"{CALIBRATION} Expected calibration error: {_share(error)}." if error else CALIBRATION
    plots = figure("Calibration", _calibration(found.get("calibration", [])), (), told)
    plots += _accuracies(found)
    if lengths:
        svg = whiskers("Correlation with length", lengths, Axis("correlation", -1.0, 1.0), 0.0)
        plots += figure(
            "Does it like long answers?", svg, (), "Compare with the truth's own: long answers may be worse."
        )
    return (
        scroll(
            "The reward model",
            f'<table class="figures"><caption>{counted}. Small: 95 % intervals.</caption><tbody>{rows}</tbody></table>',
        )
        + f'<div class="plots">{plots}</div>'
    )


CALIBRATION = (
    "How often the preferred of two answers is truly the better one, by the probability σ(difference of scores). "
    "Area: number of pairs."
)


def _accuracies(found: Mapping[str, Any]) -> str:
    """Accuracy by margin, and by K where K differs."""
    axis = Axis("in the right order", 0.0, 1.0, percent=True)
    quarters = [("–".join(plain(end, 2) for end in row["margin"]), row) for row in found.get("accuracy_by_margin", [])]
    sizes = [(str(row["k"]), row) for row in found.get("accuracy_by_k", [])]
    parts = []
    for heading, by, rows, caption in (
        ("Accuracy by margin", Axis("|difference of scores|, a quarter of the pairs each"), quarters, MARGIN),
        ("Accuracy by K", Axis("completions of the prompt"), sizes if len(sizes) > 1 else [], CHANCE),
    ):
        drawn = [
            (name, row["accuracy"], f"{name}: {_share(row['accuracy'])} of {row['n']:,} pairs") for name, row in rows
        ]
        parts.append(figure(heading, bars(heading, drawn, by, axis, 0.5), (), caption))
    return "".join(parts)


CHANCE = "Whiskers: 95\u202f% intervals. Dashed: one half, which chance gets."
MARGIN = f"The further apart two scores, the more often their order ought to be right. {CHANCE}"


def rounds(findings: Findings) -> str:
    """Reward, truth and KL per round, for each stage that went by rounds."""
    parts = []
    for stage in rl_stages(findings):
        for key, heading, axis in (
            ("reward", "Learned reward", Axis("reward units")),
            ("truth", "True quality (never trained on)", Axis("truth's units")),
            ("kl", "KL to the reference", Axis("nats per completion", zero=True)),
        ):
            parts.append(_panel(stage, key, heading, axis))
    return _grid(parts)


def proxy_against_truth(findings: Findings) -> str:
    parts = []
    for stage in rl_stages(findings):
        kept = [m for m in stage.metrics if all(math.isfinite(m.get(k, math.nan)) for k in ("reward", "truth", "kl"))]
        if len(kept) < 3:
            continue
        near = sorted(kept, key=lambda m: m["kl"])  # neighbours in distance are averaged, whatever their rounds
        far = [math.sqrt(max(m["kl"], 0.0)) for m in near]
        curves = [
            Series(name, list(zip(far, _standardised([m[key] for m in near]))), i, _window(near), dots=True)
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


def diagnostics(findings: Findings) -> str:
    """Small multiples; what did not change over the rounds is said in a line instead."""
    parts = []
    for stage in rl_stages(findings):
        level = []
        panels = []
        for key, (heading, axis) in PANELS.items():
            values = [m[key] for m in stage.metrics if math.isfinite(m.get(key, math.nan))]
            if values and max(values) - min(values) < STILL:
                level.append(f"{heading}: {axis.shown(round(values[0], 6))} ({axis.label})")
            else:
                panels.append(_panel(stage, key, heading, axis))
        parts.append(_grid(panels))
        if level:
            parts.append(f"<p>{escape(title(stage.id))}, the same in every round. {escape('; '.join(level))}.</p>")
    return "".join(parts)


def _counted(n: int | None, key: str) -> str:
    return f"<small>{n:,} {'pairs' if key in SHARES else 'prompts'}</small>" if n else ""


def _share(figure: Mapping[str, float]) -> str:
    return f"{percent(figure['value'])} ({interval(figure)})"


def _told(kept: Sequence[Mapping[str, Any]]) -> str:
    """What the two curves say, in words."""
    seen = "A dot is a round, a curve the mean of dots near in KL; where the curves part, the reward is being hacked. "
    if len(kept) < FEWEST_ROUNDS:
        return f"{seen}With {len(kept)} rounds no trend can be told from noise."
    if (found := hacking(kept)) is not None:
        return f"{seen}Here they part: {described(found)}."
    return f"{seen}Here no fall of the true quality under a rising reward can be told from noise."


def _calibration(bins: Sequence[Mapping[str, float]]) -> str:
    if not bins:
        return ""
    points = [
        (
            b["predicted"],
            b["observed"],
            b["n"],
            f"said {b['predicted']:.2f}, was {b['observed']:.2f} of {b['n']:.0f} pairs",
        )
        for b in bins
    ]
    low = min(0.5, *(b["observed"] for b in bins))
    axes = Axis("said: σ(difference of scores)", 0.5, 1.0, True), Axis("was the better one", low, 1.0, True)
    return reliability("Calibration of the reward model", points, *axes)


def _panel(stage: Finished, key: str, heading: str, axis: Axis) -> str:
    points: list[Point] = [(m["round"], m[key]) for m in stage.metrics if key in m]
    curve = Series(heading, points, 0, _window(points))
    named = f"{title(stage.id)}: {heading}"
    return figure(named, lines(f"{named} by round", [curve], Axis("round", whole=True), axis))


def _standardised(values: Sequence[float]) -> list[float]:
    mean, spread = statistics.mean(values), statistics.pstdev(values)
    return [(v - mean) / spread if spread else 0.0 for v in values]


def _window(metrics: Sequence[Any]) -> int:
    return max(len(metrics) // 8, 1)


def _grid(parts: Sequence[str]) -> str:
    return f'<div class="plots">{"".join(parts)}</div>' if any(parts) else ""
