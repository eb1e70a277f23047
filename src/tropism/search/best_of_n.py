"""Best of n: sample n completions and keep the one with the highest score (arXiv 2009.01325, 2112.09332).

    answer = argmax_k score(y_k),  y_1 … y_n sampled from the policy

Of equal scores the first is taken, which is a fair draw, since the samples are exchangeable. If the judge scored none
of them, the first sample is the answer. How far this moves the policy, and the quality to expect for each n, is
computed in `tensors/best_of.py`. Left out: weighted and majority votes, which need a test whether two answers mean the
same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge

from tropism.errors import TropismError
from tropism.types import Completion, Group, Judgment, Rate, Sample, SamplingParams

__all__ = ["BestOfN"]


@dataclass(frozen=True)
class BestOfN:
    """Samples `n` completions; the `n` of the sampling parameters is ignored."""

    n: Annotated[int, Ge(1)] = 16

    def search(self, group: Group, params: SamplingParams) -> Generator[Sample | Rate, Any, Completion]:
        if self.n > 1 and params.temperature == 0:
            raise TropismError(f"all {self.n} greedy completions are the same: use a temperature above 0")
        completions: tuple[Completion, ...] = yield Sample(group.prompt, dataclasses.replace(params, n=self.n))
        candidates = dataclasses.replace(group, completions=completions, judgments=())
        judgment: Judgment = yield Rate(candidates)
        return completions[judgment.best or 0]
