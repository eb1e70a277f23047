"""Answers side by side, the reference beside the question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tropism.report.elements import escape, scroll
from tropism.report.read import Findings
from tropism.report.words import plain, title

ORDER = 30
HEADING = "The same prompts, answered by each"
SHOWN = 12  # prompts side by side
LONGEST = 280  # characters of an answer


def html(findings: Findings) -> str:
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
        notes.append("✓ means exactly the reference answer, ✗ anything else.")
    if raw:
        notes.append(f"{', '.join(raw)} got the same prompts as raw text.")
    return f"<p>{escape(' '.join(notes))}</p>" + scroll(
        "Answers side by side",
        f'<table class="answers"><thead><tr><th scope="col">Prompt</th>{head}</tr></thead><tbody>{rows}</tbody></table>',
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
    """Text by a person or a model, shortened if it is long, with its own writing direction."""
    kept = text.strip() if len(text.strip()) <= LONGEST else text.strip()[:LONGEST] + " …"
    return f'<p class="written" dir="auto">{escape(kept) or "(nothing)"}</p>'
