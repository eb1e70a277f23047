"""The report in a terminal: one table of models, a few lines around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tropism.report.compared import sentences, starred
from tropism.report.read import Findings
from tropism.report.verdict import verdicts
from tropism.report.words import left_out, overlap, plain

ARROWS = {"higher": " ↑", "lower": " ↓"}  # which way is better


def summary(findings: Findings) -> str:
    """The text that `tropism run` prints at its end and `tropism show` at any time."""
    models, found = findings.models, findings.evaluation
    console = Console(width=max(120, 26 * (1 + len(models)) + 12), color_system=None)
    with console.capture() as capture:
        spent = "  ".join(f"{stage.id} {stage.seconds:.0f} s" for stage in findings.stages)
        total = sum(stage.seconds for stage in findings.stages)
        console.print(f"{findings.recipe}: {total:.0f} s   ({spent})", soft_wrap=True)
        if models:
            console.print(_models(findings))
            for signature in next(iter(models.values())).get("signatures", ()):
                console.print(signature, soft_wrap=True)
            for note in left_out(models):
                console.print(note, soft_wrap=True)
        if said := overlap(found.get("overlap", {})):
            console.print(said, soft_wrap=True)
        if "base_completes" in found:
            console.print(f"base completes raw text: {_figure(found['base_completes'])}")
        if "pair_accuracy" in (reward := found.get("reward_model", {})):
            tau = f", Kendall's tau {_figure(reward['kendall_tau'])}" if "kendall_tau" in reward else ""
            console.print(
                f"reward model: orders {_figure(reward['pair_accuracy'])} of {reward['n_pairs']:,} held-out pairs as "
                f"{reward['against']} does{tau}",
                soft_wrap=True,
            )
        if not models:
            for stage in findings.stages:
                console.print(f"{stage.id}: " + ", ".join(f"{k} {v}" for k, v in stage.facts.items()), soft_wrap=True)
        for sentence in verdicts(findings):
            console.print(sentence, soft_wrap=True)
    return capture.get().rstrip("\n")


def compared(report: Mapping[str, Any]) -> str:
    """The comparison of methods: a table at equal KL, one at equal compute, and their results in sentences."""
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        for key, unit in (("equal_kl", "nats of KL per completion"), ("equal_spent", "tokens through models")):
            if key not in report:
                continue
            console.print(f"at {plain(report[key]['level'])} {unit}:")
            grid = Table(box=None, pad_edge=False)
            for name in ("", "true quality", "over the start", "behind the first", "learned reward"):
                grid.add_column(name, justify="right" if name else "left")
            for name, row in report[key]["methods"].items():
                behind = row.get("behind_best")
                p = f" p{'=' if behind['p'] > 0.001 else '≤'}{behind['p']:.3f}" if behind else ""
                cells = (row["truth"], row.get("over_start"), behind, row.get("reward"))
                shown = [_figure(c) + starred(c) if c else "" for c in cells]
                grid.add_row(name, shown[0], shown[1], shown[2] + p, shown[3])
            console.print(grid)
        for sentence in sentences(report):
            console.print(sentence, soft_wrap=True)
    return capture.get().rstrip("\n")


def _models(findings: Findings) -> Table:
    models = findings.models
    grid = Table(box=None, pad_edge=False)
    grid.add_column("↑ ↓ this way is better")
    for name, figures in models.items():
        grid.add_column(f"{name} (n = {figures.get('n', '?')})", justify="right")
    for key, about in findings.measures.items():
        if any(key in figures for figures in models.values()):
            cells = (_figure(figures[key]) if key in figures else "" for figures in models.values())
            grid.add_row(escape(about["title"]) + ARROWS.get(about["better"], ""), *cells)
    return grid


def _figure(figure: Mapping[str, float]) -> str:
    value, low, high = (figure[key] + 0.0 for key in ("value", "low", "high"))  # no minus before a zero
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"
