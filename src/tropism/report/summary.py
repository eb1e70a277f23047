"""The report in a terminal: one table of models, a few lines around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from tropism.report.compared import sentences, starred
from tropism.report.plots import plain
from tropism.report.words import left_out, overlap

TEXT = ("bleu_greedy", "bleu_sampled", "chrf_greedy", "chrf_sampled", "rouge_l_greedy", "rouge_l_sampled")
ROWS = ("exact_greedy", "exact_sampled", "chrf", *TEXT, "quality", "reward", "stop_rate", "tokens")


def summary(report: Mapping[str, Any]) -> str:
    """What `tropism run` prints at its end and `tropism show` at any time."""
    seconds = report["seconds"]
    console = Console(width=max(120, 26 * (1 + len(report.get("models", {})))), color_system=None)
    with console.capture() as capture:
        spent = "  ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
        console.print(f"{report['recipe']}: {sum(seconds.values()):.0f} s   ({spent})", soft_wrap=True)
        if models := report.get("models"):
            console.print(_models(models))
            for signature in next(iter(models.values())).get("signatures", ()):
                console.print(signature, soft_wrap=True)
            for note in left_out(models):
                console.print(note, soft_wrap=True)
        if said := overlap(report.get("overlap", {})):
            console.print(said, soft_wrap=True)
        if "base_completes" in report:
            console.print(f"base completes raw text: {_figure(report['base_completes'])}")
        if "pair_accuracy" in (reward := report.get("reward_model", {})):
            tau = f", Kendall's tau {_figure(reward['kendall_tau'])}" if "kendall_tau" in reward else ""
            console.print(
                f"reward model: orders {_figure(reward['pair_accuracy'])} of {reward['n_pairs']:,} held-out pairs as "
                f"{reward['against']} does{tau}",
                soft_wrap=True,
            )
        if not models:
            for stage, found in report["stages"].items():
                console.print(f"{stage}: " + ", ".join(f"{k} {v}" for k, v in found["facts"].items()), soft_wrap=True)
        for sentence in report.get("verdict", ()):
            console.print(sentence, soft_wrap=True)
    return capture.get().rstrip("\n")


def compared(report: Mapping[str, Any]) -> str:
    """The comparison of methods: a table at equal KL, one at equal compute, and what they say."""
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


def _models(models: Mapping[str, Mapping[str, Any]]) -> Table:
    grid = Table(box=None, pad_edge=False)
    grid.add_column("")
    for name, figures in models.items():
        grid.add_column(f"{name} (n = {figures.get('n', '?')})", justify="right")
    relative = [
        k for k in dict.fromkeys(k for f in models.values() for k in f) if k.startswith(("win_over_", "kl_to_"))
    ]
    for row in (*ROWS, *relative):
        if any(row in figures for figures in models.values()):
            cells = (_figure(figures[row]) if row in figures else "" for figures in models.values())
            grid.add_row(row.replace("_", " "), *cells)
    return grid


def _figure(figure: Mapping[str, float]) -> str:
    value, low, high = (figure[key] + 0.0 for key in ("value", "low", "high"))  # no minus before a zero
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"
