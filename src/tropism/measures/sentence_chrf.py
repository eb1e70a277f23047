"""chrF (Popović 2015) of each greedy answer by itself, from 0 to 100: the mean over prompts.

A mean of sentence scores differs from the score of the corpus (`measures/chrf.py`). An evaluation whose `metrics` name
the corpus score has that one instead of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sacrebleu.metrics.chrf import CHRF

from tropism import statistics
from tropism.statistics import PERCENT, Figure
from tropism.types import About, Drawn, Evaluation

__all__ = ["SentenceChrF"]


@dataclass(frozen=True)
class SentenceChrF:
    """The mean chrF of single answers."""

    about: ClassVar[About] = About(
        "chrf", "chrF (0–100), greedy", better="higher", of=("greedy",), target=True, order=20
    )

    def measure(self, found: Evaluation, drawn: Drawn) -> Mapping[str, Figure | str]:
        chrf = CHRF()
        return {
            name: statistics.mean(
                [chrf.sentence_score(g.completions[0].text.strip(), [g.target or ""]).score for g in answers[drawn]],
                PERCENT,
            )
            for name, answers in found.answers.items()
        }
