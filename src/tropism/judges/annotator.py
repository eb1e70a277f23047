"""Simulated annotators: they rank completions by true quality, with noise, ties and a position bias.

    utility = quality(completion, target) + noise * N(0, 1) + position_bias * (1 - place / (K - 1))

`place` counts from 0 in the random order in which the completions are shown. Ranks are given from the best
utility down: completions less than `tie_margin` below the first of a rank share this rank. The score is minus
the rank; only the order has a meaning. The same text gets the same utility: its noise is drawn once, and its
first place is used. All random numbers depend only on `seed` and the group's id. Left out: annotators who
differ from each other, and intransitive ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Interval

from tropism.phrasebook.quality import quality
from tropism.types import Group, Judgment

__all__ = ["Annotator"]

_NAME = "annotator@1"


@dataclass(frozen=True)
class Annotator:
    """Simulated annotators. Their numbers are in units of quality, where right is 1 and wrong at most 0.3.

    With the defaults they order about 19 of 20 pairs of different quality correctly.
    """

    noise: Annotated[float, Ge(0)] = 0.15
    tie_margin: Annotated[float, Ge(0)] = 0.03
    position_bias: Annotated[float, Ge(0)] = 0.04
    seed: Annotated[int, Interval()] = 0

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        """One ordinal judgment for each group; without a target, and for a failed completion, the score is None."""
        return [self._rank(group) for group in groups]

    def _rank(self, group: Group) -> Judgment:
        size = len(group.completions)
        if group.target is None:
            rationale = "simulated annotators abstained: the group has no target"
            return Judgment(_NAME, (None,) * size, "ordinal", rationale)
        rng = random.Random(f"annotator {self.seed} {group.id}")
        shown = tuple(rng.sample(range(size), size))
        errors = [rng.gauss(0.0, self.noise) for _ in range(size)]
        utilities: dict[str, float] = {}
        for place, index in enumerate(shown):
            text = group.completions[index].text.strip()
            bias = self.position_bias * (1 - place / max(size - 1, 1))
            utilities.setdefault(text, quality(text, group.target) + errors[index] + bias)
        ranks = _ranks(utilities, self.tie_margin)
        scores = tuple(None if c.finish_reason == "error" else -float(ranks[c.text.strip()]) for c in group.completions)
        return Judgment(_NAME, scores, "ordinal", "ranked by simulated annotators", shown)


def _ranks(utilities: dict[str, float], tie_margin: float) -> dict[str, int]:
    """The rank of each text, 1 for the best; utilities less than `tie_margin` below a rank's first share it.

    Equal utilities always share a rank.
    """
    ranks: dict[str, int] = {}
    rank, first = 0, float("inf")
    for text, utility in sorted(utilities.items(), key=lambda item: -item[1]):
        if utility < first and first - utility >= tie_margin:
            rank, first = rank + 1, utility
        ranks[text] = rank
    return ranks
