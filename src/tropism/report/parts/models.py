"""The figures of the evaluated models as a table, and exact match and wins as plots."""

from __future__ import annotations

from tropism.report.axes import Axis
from tropism.report.elements import escape, figure, scroll
from tropism.report.plots import whiskers
from tropism.report.read import Findings
from tropism.report.words import cell, left_out, overlap, title

ORDER = 20
HEADING = "The models"


def html(findings: Findings) -> str:
    """A table with a row for each measure and a column for each model, to fit narrow screens."""
    models = findings.models
    if not models:
        return ""
    head = "".join(f'<th scope="col">{escape(title(name))}</th>' for name in models)
    rows = []
    for key, about in findings.measures.items():
        found = [figures.get(key) for figures in models.values()]
        if any(found):
            cells = "".join(f"<td>{cell(f, about['unit'] == 'share')}</td>" for f in found)
            rows.append(f'<tr><th scope="row">{escape(about["title"])}</th>{cells}</tr>')
    count = next(iter(models.values()))
    caption = f"{count.get('n', '?')} {findings.asked}"
    caption += f", {count['samples']} samples of each beside the greedy answer" if "samples" in count else ""
    table = scroll(
        "The models",
        f'<table class="figures"><caption>{escape(caption)}. Small: 95 % intervals.</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>",
    )
    shared = overlap(findings.evaluation.get("overlap", {}))
    notes = (" · ".join(count.get("signatures", ())), " ".join(left_out(models)), shared)
    noted = "".join(f'<p class="note">{escape(note)}</p>' for note in notes if note)
    return f'{table}{noted}<div class="plots">{_model_plots(findings)}</div>{_completes(findings)}'


def _model_plots(findings: Findings) -> str:
    models, over = findings.models, findings.over
    pairs = {"greedy": "exact_greedy", "sampled": "exact_sampled"}
    exact = {
        title(name): {said: figures[key] for said, key in pairs.items() if key in figures}
        for name, figures in models.items()
        if any(key in figures for key in pairs.values())
    }
    wins = {title(n): {"wins": f[f"win_over_{over}"]} for n, f in models.items() if f"win_over_{over}" in f}
    share = Axis("exact match", 0.0, 1.0, percent=True)
    beaten = Axis("comparisons won", 0.0, 1.0, percent=True)
    plots = figure("Exact match", whiskers("Exact match of each model", exact, share), list(pairs)) if exact else ""
    if wins:
        label = f"Wins over {title(over)}"
        plots += figure(
            label, whiskers(label, wins, beaten, 0.5), (), "Ties count half. Dashed: one half, no difference."
        )
    return plots


def _completes(findings: Findings) -> str:
    found = findings.evaluation.get("base_completes")
    if not found:
        return ""
    base = title(findings.evaluate.get("base", "base"))
    return (
        f"<p>Given the beginning of a raw text, {escape(base)} continues correctly for {cell(found, True)} of the "
        "held-out passages.</p>"
    )
