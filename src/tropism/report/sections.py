"""The parts of the page about the models: the time line, their figures, answers side by side, losses, facts.

Each takes the findings and gives HTML, or "" if the run has nothing to say there. All text goes through `escape`:
answers are whatever a model wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tropism.report.plots import Axis, Series, escape, figure, lines, plain, scroll, timeline, whiskers
from tropism.report.read import Findings, Finished
from tropism.report.words import cell, duration, left_out, overlap, title

SHOWN = 12  # prompts side by side
LONGEST = 280  # characters of an answer
SHARES = {"exact_greedy", "exact_sampled", "win", "stop_rate", "pair_accuracy", "base_completes"}
MEASURES = {
    "exact_greedy": "exact match, greedy",
    "exact_sampled": "exact match, sampled",
    "chrf": "chrF (0–100), greedy",
    "bleu_greedy": "BLEU, greedy",
    "bleu_sampled": "BLEU, sampled",
    "chrf_greedy": "chrF of the corpus, greedy",
    "chrf_sampled": "chrF of the corpus, sampled",
    "rouge_l_greedy": "ROUGE-L, greedy",
    "rouge_l_sampled": "ROUGE-L, sampled",
    "quality": "true quality, sampled",
    "reward": "learned reward, sampled",
    "win": "wins over {over}",
    "kl": "KL to {over}, nats per completion",
    "tokens": "tokens per completion",
    "stop_rate": "answers that end by themselves",
}
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


def time_line(findings: Findings) -> str:
    if not findings.stages:
        return ""
    bars = [(title(s.id), s.seconds, f"{s.id} ({s.kind}): {s.seconds:.1f} s") for s in findings.stages]
    total = sum(s.seconds for s in findings.stages)
    waiting = [title(id) for id in findings.planned if id not in {s.id for s in findings.stages}]
    caption = f"{duration(total)} of work in all." + (f" Not finished: {', '.join(waiting)}." if waiting else "")
    return figure("Seconds of work, stage after stage", timeline("Time line of the stages", bars), (), caption)


def model_table(findings: Findings) -> str:
    """Measures down, models across: it stays readable with many measures on a narrow screen."""
    models, over = findings.models, findings.over
    if not models:
        return ""
    keys = {key: key for key in MEASURES} | {"win": f"win_over_{over}", "kl": f"kl_to_{over}"}
    head = "".join(f'<th scope="col">{escape(title(name))}</th>' for name in models)
    rows = []
    for measure, said in MEASURES.items():
        found = [figures.get(keys[measure]) for figures in models.values()]
        if any(found):
            cells = "".join(f"<td>{cell(f, measure in SHARES)}</td>" for f in found)
            rows.append(f'<tr><th scope="row">{escape(said.format(over=title(over)))}</th>{cells}</tr>')
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


def side_by_side(findings: Findings) -> str:
    answers = findings.evaluation.get("answers", [])[:SHOWN]
    if not answers:
        return ""
    names = list(answers[0]["models"])
    asked = findings.over if findings.over in names else names[-1]
    head = "".join(f'<th scope="col">{escape(title(name))}</th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row">{_question(row, asked)}</th>'
        + "".join(f"<td>{_answer(row['models'][name], row.get('target'))}</td>" for name in names)
        + "</tr>"
        for row in answers
    )
    raw = [title(name) for name in names if name in findings.plain]
    notes = [f"The first {len(answers)} {findings.asked}, not chosen; greedy answers."]
    if any(row.get("target") is not None for row in answers):
        notes.append("✓ stands for the reference answer and nothing else, ✗ for anything else.")
    if raw:
        notes.append(f"{', '.join(raw)} saw the same words as raw text.")
    return f"<p>{escape(' '.join(notes))}</p>" + scroll(
        "Answers side by side",
        f'<table class="answers"><thead><tr><th scope="col">Prompt</th>{head}</tr></thead><tbody>{rows}</tbody></table>',
    )


def losses(findings: Findings) -> str:
    found = "".join(_loss(stage) for stage in findings.stages)
    return f'<div class="plots">{found}</div>' if found else ""


def facts(findings: Findings) -> str:
    items = []
    for stage in (s for s in findings.stages if s.facts):
        said = "; ".join(f"{FACTS.get(k, k.replace('_', ' '))}: {_fact(v)}" for k, v in stage.facts.items())
        items.append(f"<dt>{escape(title(stage.id))} <small>{escape(stage.kind)}</small></dt><dd>{escape(said)}</dd>")
    return f"<dl>{''.join(items)}</dl>" if items else ""


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
        f"<p>Given raw text to go on with, {escape(base)} goes on rightly for {cell(found, True)} of the held-out "
        "passages.</p>"
    )


def _question(row: Mapping[str, Any], asked: str) -> str:
    said = _written("\n".join(row["models"][asked]["prompt"]))
    target = row.get("target")
    return said + (f"<small>reference</small>{_written(target)}" if target is not None else "")


def _answer(answer: Mapping[str, Any], target: str | None) -> str:
    text, notes = answer["greedy"], []
    if answer.get("quality") is not None:
        notes.append(f"quality {plain(round(answer['quality'], 2))}")
    if answer.get("reward") is not None:
        notes.append(f"reward {plain(round(answer['reward'], 2))}")
    mark, css = "", ""
    if target is not None:
        right = text.strip() == target.strip()
        mark, css = ("✓ right", "right") if right else ("✗", "wrong")
    said = " · ".join(notes)
    return f'{_written(text)}<small><b class="{css}">{mark}</b> {escape(said)}</small>'


def _written(text: str) -> str:
    """What a person or a model wrote, cut if it is long, with its own direction of writing."""
    kept = text.strip() if len(text.strip()) <= LONGEST else text.strip()[:LONGEST] + " …"
    return f'<p class="written" dir="auto">{escape(kept) or "(nothing)"}</p>'


def _loss(stage: Finished) -> str:
    if not stage.metrics or not {"step", "loss"} <= stage.metrics[0].keys():
        return ""
    points = [(float(m["step"]), float(m["loss"])) for m in stage.metrics]
    unit = "nats per prompt" if stage.kind == "reward" else "nats per token"
    marks = {"held out": stage.facts["held_out_loss"]} if "held_out_loss" in stage.facts else {}
    tail = [loss for _, loss in points[len(points) // 20 :]]  # the first fall would hide the rest
    svg = lines(
        f"Loss of {title(stage.id)} by step",
        [Series("loss", points, 0, max(len(points) // 15, 1))],
        Axis("step", whole=True),
        Axis(unit, high=max([*tail, *marks.values()])),
        marks,
    )
    before = stage.facts.get("held_out_loss_before")
    caption = f"Held out: {plain(before)} before, {plain(stage.facts['held_out_loss'])} after." if before else ""
    if "bits_per_byte" in stage.facts:
        mine, gzip = stage.facts["bits_per_byte"], stage.facts["gzip_bits_per_byte"]
        caption = f"Held out: {plain(mine)} bits per byte; gzip needs {plain(gzip)}."
    return figure(title(stage.id), svg, (), caption)


def _fact(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{value + 0.0 if isinstance(value, float) else value:,}".replace("-", "−")
