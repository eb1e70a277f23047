"""A judge that compares with the reference: sentence chrF from 0 to 100, as sacrebleu computes it (Popović 2015, WMT).

    chrF = 100 * (1 + 2²) P R / (2² P + R)     P, R: precision and recall of character n-grams, each a mean over n = 1 … 6

The reference is the group's target, which no model sees. White space is ignored. This judge can rank completions, or be
the `truth` that is watched. For single sentences it is the most stable n-gram measure: the BLEU of one sentence is
mostly 0. Left out: word n-grams (chrF++) and several references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics.chrf import CHRF

from tropism.types import Completion, Group, Judgment

__all__ = ["ChrF"]


@dataclass(frozen=True)
class ChrF:
    """One interval judgment for each group; without a target, and for a failed completion, the score is None."""

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        chrf = CHRF()
        return [Judgment("chrf@1", tuple(_score(chrf, c, g.target) for c in g.completions)) for g in groups]


def _score(chrf: CHRF, completion: Completion, target: str | None) -> float | None:
    if target is None or completion.finish_reason == "error":
        return None
    return chrf.sentence_score(completion.text, [target]).score
