"""The report in a terminal: one table of models, a few lines around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

ROWS = ("exact_greedy", "exact_sampled", "chrf", "quality", "reward", "stop_rate", "tokens")


def summary(report: Mapping[str, Any]) -> str:
    """What `tropism run` prints at its end and `tropism show` at any time."""
    seconds = report["seconds"]
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        spent = "  ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
        console.print(f"{report['recipe']}: {sum(seconds.values()):.0f} s   ({spent})", soft_wrap=True)
        if models := report.get("models"):
            console.print(_models(models))
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
    return f"{figure['value']:.3g} [{figure['low']:.3g}, {figure['high']:.3g}]"
