"""Exact match: how often an answer equals the reference answer, except for blanks at the ends.

Greedy answers are one trial for each prompt. The samples of a prompt are not independent, so their figure is a mean
over prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tropism import statistics
from tropism.statistics import SHARE, Figure
from tropism.types import About, Drawn, Evaluation

__all__ = ["Exact"]


@dataclass(frozen=True)
class Exact:
    """The share of answers that equal the reference answer."""

    about: ClassVar[About] = About(
        "exact", "exact match", "share", "higher", of=("greedy", "sampled"), target=True, order=10
    )

    def measure(self, found: Evaluation, drawn: Drawn) -> Mapping[str, Figure | str]:
        figures: dict[str, Figure | str] = {}
        for name, answers in found.answers.items():
            right = [[c.text.strip() == (g.target or "").strip() for c in g.completions] for g in answers[drawn]]
            if drawn == "greedy":
                figures[name] = statistics.proportion(sum(said for (said,) in right), len(right))
            else:
                figures[name] = statistics.mean([float(np.mean(said)) for said in right], SHARE)
        return figures
