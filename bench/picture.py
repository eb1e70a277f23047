"""The picture of the README: the learned reward and the true quality of `rl` stages, round by round, as one SVG.

    python bench/picture.py runs/compare docs/reward-and-truth.svg ppo-1="PPO" hacked="PPO without a KL penalty"

Each stage needs a judge of the `truth`, which it logs and never trains on. The SVG brings its own background and style
sheet, light and dark, so that it can be read wherever it is shown.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tropism
from tropism.report.axes import Axis
from tropism.report.elements import escape
from tropism.report.plots import Series, lines
from tropism.store.folder import latest

WIDTH, HEIGHT, MARGIN, TOP = 340, 216, 16, 62
HEAD = 26  # of a panel
SHEET = (Path(tropism.__file__).parent / "report" / "style.css").read_text(encoding="utf-8")
COLOURS = SHEET.partition("* {")[0]  # light and dark
CURVES = "".join(re.findall(r"^(?:text\.|\.(?:s\d|grid|curve|raw|hit)[ .]).*\n", SHEET, re.MULTILINE))
OWN = "svg { font: 12px system-ui, sans-serif; fill: var(--soft) } .paper { fill: var(--paper) } .head { fill: var(--ink) }"


def rounds(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics that speak of a round."""
    found = (json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [metrics for metrics in found if "truth" in metrics and "reward" in metrics]


def picture(runs: dict[str, list[dict[str, Any]]]) -> str:
    """`runs` holds the rounds of each curve by its name. The reward is drawn as its gain since the first round, because
    two reward models have no common zero."""
    rewards, truths = [], []
    for style, (name, metrics) in enumerate(runs.items()):
        smooth = max(len(metrics) // 8, 1)
        gains = [(m["round"], m["reward"] - metrics[0]["reward"]) for m in metrics]
        rewards.append(Series(name, gains, style, smooth))
        truths.append(Series(name, [(m["round"], m["truth"]) for m in metrics], style, smooth))
    panels = (
        (
            "What is trained on: the learned reward",
            lines("learned reward", rewards, Axis("round", whole=True), Axis("gain")),
        ),
        ("What is wanted: the true quality", lines("true quality", truths, Axis("round", whole=True), Axis("0 to 1"))),
    )
    return framed(list(runs), panels)


def framed(names: Sequence[str], panels: Sequence[tuple[str, str]]) -> str:
    """Headings and plots, two beside each other, under a legend; a name's place is the style of its curve."""
    width, height = 2 * WIDTH + 3 * MARGIN, TOP - HEAD + (HEAD + HEIGHT + MARGIN) * -(-len(panels) // 2)
    parts = [f'<rect class="paper" width="{width}" height="{height}" rx="8"/>']
    at = MARGIN
    for style, name in enumerate(names):
        parts.append(f'<line class="curve s{style}" x1="{at}" x2="{at + 26}" y1="20" y2="20"/>')
        parts.append(f'<text class="head" x="{at + 32}" y="24">{escape(name)}</text>')
        at += 50 + 7 * len(name)
    for number, (heading, svg) in enumerate(panels):
        left, top = MARGIN + number % 2 * (WIDTH + MARGIN), TOP + number // 2 * (HEAD + HEIGHT + MARGIN)
        parts.append(f'<text class="head" font-weight="600" x="{left}" y="{top - 14}">{heading}</text>')
        parts.append(svg.replace("<svg ", f'<svg x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" ', 1))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return f"{head}<style>{COLOURS}{CURVES}{OWN}</style>{''.join(parts)}</svg>\n"


def main(run: str, out: str, *curves: str) -> None:
    folders = latest(Path(run))
    named = dict(curve.partition("=")[::2] for curve in curves)
    Path(out).write_text(picture({name or id: rounds(folders[id]) for id, name in named.items()}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
