"""The quality of the reward model on groups that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tropism.report.axes import Axis
from tropism.report.elements import escape, figure, scroll
from tropism.report.plots import bars, reliability, whiskers
from tropism.report.read import Findings
from tropism.report.words import cell, interval, percent, plain

ORDER = 70
HEADING = "The reward model"
QUALITIES = {
    "pair_accuracy": "held-out pairs put in the right order",
    "length_controlled_accuracy": "the same of pairs of nearly equal length",
    "calibration_error": "expected calibration error (ECE)",
    "kendall_tau": "Kendall's τ with the truth, within a prompt",
    "length_correlation": "correlation of the score with length",
    "length_correlation_truth": "correlation of the truth with length",
}
SHARES = {"pair_accuracy", "length_controlled_accuracy", "calibration_error"}
CALIBRATION = (
    "How often the preferred one of two answers is truly better, by the predicted probability σ(difference of scores). "
    "Area: number of pairs."
)
CHANCE = "Whiskers: 95\u202f% intervals. Dashed: one half, as by chance."
MARGIN = f"The larger the difference of two scores, the more often their order should be right. {CHANCE}"


def html(findings: Findings) -> str:
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
        plots += figure("Does it like long answers?", svg, (), "Compare with the truth: long answers may be worse.")
    return (
        scroll(
            "The reward model",
            f'<table class="figures"><caption>{counted}. Small: 95 % intervals.</caption><tbody>{rows}</tbody></table>',
        )
        + f'<div class="plots">{plots}</div>'
    )


def _accuracies(found: Mapping[str, Any]) -> str:
    """Accuracy by margin, and by K if K differs."""
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


def _counted(n: int | None, key: str) -> str:
    return f"<small>{n:,} {'pairs' if key in SHARES else 'prompts'}</small>" if n else ""


def _share(figure: Mapping[str, float]) -> str:
    return f"{percent(figure['value'])} ({interval(figure)})"
