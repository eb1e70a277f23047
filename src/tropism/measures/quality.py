"""The score of the judge that no model is trained on: the mean over prompts of the mean of their samples.

Left out if there is no such judge, or if a sample has no score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tropism.measures._scores import means
from tropism.statistics import Figure
from tropism.types import About, Drawn, Evaluation

__all__ = ["TrueQuality"]


@dataclass(frozen=True)
class TrueQuality:
    """The mean true quality of the samples, in the judge's units."""

    about: ClassVar[About] = About("quality", "true quality, sampled", better="higher", order=60)

    def measure(self, found: Evaluation, drawn: Drawn) -> Mapping[str, Figure | str]:
        return means(found, drawn, "truth")
