"""The length of an answer: the mean over prompts of the mean of their samples, stop token included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tropism import statistics
from tropism.statistics import Figure
from tropism.types import About, Drawn, Evaluation

__all__ = ["Tokens"]


@dataclass(frozen=True)
class Tokens:
    """The mean number of tokens."""

    about: ClassVar[About] = About("tokens", "tokens per completion", "tokens", order=100)

    def measure(self, found: Evaluation, drawn: Drawn) -> Mapping[str, Figure | str]:
        figures: dict[str, Figure | str] = {}
        for name, answers in found.answers.items():
            if any(c.tokens is None for g in answers[drawn] for c in g.completions):
                continue  # the engine gave only text
            lengths = [[len(c.tokens or ()) for c in g.completions] for g in answers[drawn]]
            longest = max(found.sampling.max_tokens, max(map(max, lengths)))  # a search may join several samples
            figures[name] = statistics.mean([float(np.mean(row)) for row in lengths], (0.0, float(longest)))
        return figures
