"""The scores that the judges of an evaluation gave: "truth" is its `judge`, "proxy" the learned reward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tropism import statistics
from tropism.statistics import Figure, Range
from tropism.types import Drawn, Evaluation, Group


def means(found: Evaluation, drawn: Drawn, judge: str) -> dict[str, Figure | str]:
    """The mean score of each model that was judged."""
    within = _bounds(found, judge)
    scored = {name: scores(answers[drawn], judge) for name, answers in found.answers.items()}
    return {
        name: statistics.mean([float(np.mean(row)) for row in rows], within) for name, rows in scored.items() if rows
    }


def scores(groups: Sequence[Group], judge: str) -> list[list[float]] | None:
    """The scores of each group; None if a group was not judged or has no score."""
    found = [[s for s in j.scores if s is not None] if (j := g.judgment(judge)) else [] for g in groups]
    return found if all(found) else None


def _bounds(found: Evaluation, judge: str) -> Range | None:
    """The bounds of a judge's scores, from all its scores of all models."""
    judged = [g.judgment(judge) for answers in found.answers.values() for groups in answers.values() for g in groups]
    return statistics.bounds([s for j in judged if j for s in j.scores if s is not None])
