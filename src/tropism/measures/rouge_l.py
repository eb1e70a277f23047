"""ROUGE-L (Lin 2004), from 0 to 100: the mean over sentences of the F1 of the longest common subsequence, by
rouge-score.

Words are runs of letters and digits of any alphabet, in lower case. The library's own tokenizer would split words at
accented letters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import ClassVar

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from tropism import statistics
from tropism.measures._corpus import texts
from tropism.statistics import PERCENT, Figure
from tropism.types import About, Drawn, Evaluation

__all__ = ["RougeL"]


@dataclass(frozen=True)
class RougeL:
    """The mean ROUGE-L of the answers, compared with the references."""

    about: ClassVar[About] = About(
        "rouge_l",
        "ROUGE-L",
        better="higher",
        of=("greedy", "sampled"),
        target=True,
        usual=False,
        cite=f"ROUGE-L|nrefs:1|f1|case:lc|tok:words|stem:no|version:{version('rouge-score')}",
        order=50,
    )

    def measure(self, found: Evaluation, drawn: Drawn) -> Mapping[str, Figure | str]:
        scorer = RougeScorer(["rougeL"], tokenizer=_Words())
        figures: dict[str, Figure | str] = {}
        for name, answers in found.answers.items():
            each = [
                float(np.mean([100 * scorer.score(right, text)["rougeL"].fmeasure for text in row]))
                for row, right in zip(*texts(answers[drawn]))
            ]
            figures[name] = statistics.mean(each, PERCENT)
        return figures


class _Words(Tokenizer):
    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())
