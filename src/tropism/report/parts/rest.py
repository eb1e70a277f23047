"""ReST (arXiv 2308.08998): a row for each Grow and each Improve step, so that reward hacking can be found."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from tropism.report.axes import Axis
from tropism.report.elements import escape, figure, scroll
from tropism.report.plots import Series, lines
from tropism.report.read import Findings, Finished
from tropism.report.words import number, percent, plain, title

ORDER = 50
HEADING = "ReST, step by step"
HEAD = (
    "",
    "kept",
    "prompts without",
    "reward of the kept",
    "truth of the kept",
    "then: reward",
    "then: truth",
    "then: KL",
)


def html(findings: Findings) -> str:
    """A table of the steps and the rewards' histograms, for each rest stage."""
    return "".join(_stage(stage) for stage in findings.stages if stage.kind == "rest")


def _stage(stage: Finished) -> str:
    grown = [line for line in stage.metrics if "histogram" in line]
    if not grown:
        return ""
    rows = "".join(f"<tr>{''.join(_cells(line))}</tr>" for line in grown)
    head = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
    caption = f"{title(stage.id)}: what each step kept, and the policy after it on held-out prompts"
    table = scroll(
        caption,
        f'<table class="figures"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>",
    )
    plots = "".join(_histogram(stage, grow, grown) for grow in dict.fromkeys(line["grow"] for line in grown))
    return f'{table}<div class="plots">{plots}</div>'


def _cells(line: Mapping[str, Any]) -> list[str]:
    improve = line.get("improve")
    name = f"Grow {line['grow']}" if improve is None else f"Improve {improve}, threshold {plain(line['threshold'])}"
    kept = "all" if improve is None else percent(line["kept_share"])
    lost = "" if improve is None else plain(line["prompts_without"])
    values = [line.get(key) for key in ("reward", "truth", "probe_reward", "probe_truth", "probe_kl")]
    shown = [name, kept, lost, *("" if value is None else number(value) for value in values)]
    return [f'<th scope="row">{escape(shown[0])}</th>', *(f"<td>{escape(text)}</td>" for text in shown[1:])]


def _histogram(stage: Finished, grow: int, grown: Sequence[Mapping[str, Any]]) -> str:
    series = []
    for line in (line for line in grown if line["grow"] == grow):
        counts, edges = line["histogram"]["counts"], line["histogram"]["edges"]
        middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
        width = [b - a for a, b in itertools.pairwise(edges)]
        name = "all samples" if "improve" not in line else f"above {plain(line['threshold'])}"
        density = [(x, count / (w or 1.0)) for x, count, w in zip(middles, counts, width)]
        series.append(Series(name, density, len(series)))
    said = f"{title(stage.id)}, Grow {grow}: learned reward of the samples"
    svg = lines(said, series, Axis("reward units"), Axis("samples per reward unit", low=0.0))
    return figure(said, svg, [s.name for s in series])
