"""The share of samples that end with a stop token or a stop text, not at the length limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tropism import statistics
from tropism.statistics import SHARE, Figure
from tropism.types import About, Drawn, Evaluation

__all__ = ["StopRate"]


@dataclass(frozen=True)
class StopRate:
    """The share of samples that end by themselves."""

    about: ClassVar[About] = About("stop_rate", "answers that end by themselves", "share", "higher", order=110)

    def measure(self, found: Evaluation, drawn: Drawn) -> Mapping[str, Figure | str]:
        figures: dict[str, Figure | str] = {}
        for name, answers in found.answers.items():
            stopped = [[c.finish_reason == "stop" for c in g.completions] for g in answers[drawn]]
            figures[name] = statistics.mean([float(np.mean(row)) for row in stopped], SHARE)
        return figures
