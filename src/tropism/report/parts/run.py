"""The time line: the working time of each stage, and which stages are not finished."""

from __future__ import annotations

from tropism.report.elements import figure, timeline
from tropism.report.read import Findings
from tropism.report.words import duration, title

ORDER = 10
HEADING = "The run"


def html(findings: Findings) -> str:
    if not findings.stages:
        return ""
    bars = [(title(s.id), s.seconds, f"{s.id} ({s.kind}): {s.seconds:.1f} s") for s in findings.stages]
    total = sum(s.seconds for s in findings.stages)
    waiting = [title(id) for id in findings.planned if id not in {s.id for s in findings.stages}]
    caption = f"{duration(total)} of work in all." + (f" Not finished: {', '.join(waiting)}." if waiting else "")
    return figure("Seconds of work, stage after stage", timeline("Time line of the stages", bars), (), caption)
