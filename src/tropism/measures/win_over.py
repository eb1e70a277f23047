"""Wins: compares every sample of a model with every sample of another on the same prompt, by true quality; ties count
half.

The model that the others are compared with has no such figure: against itself it would always be one half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tropism import statistics
from tropism.measures._scores import scores
from tropism.statistics import SHARE, Figure
from tropism.types import About, Drawn, Evaluation

__all__ = ["WinOver"]


@dataclass(frozen=True)
class WinOver:
    """The share of comparisons won."""

    about: ClassVar[About] = About("win_over_{over}", "wins over {over}", "share", "higher", order=80)

    def measure(self, found: Evaluation, drawn: Drawn) -> Mapping[str, Figure | str]:
        theirs = scores(found.answers[found.over][drawn], "truth")
        figures: dict[str, Figure | str] = {}
        for name in found.others():
            mine = scores(found.answers[name][drawn], "truth")
            if mine is not None and theirs is not None:
                figures[name] = statistics.mean([statistics.wins(a, b) for a, b in zip(mine, theirs)], SHARE)
        return figures
