"""Kahneman-Tversky optimisation (arXiv 2402.01306): learns from single completions with thumbs up or down, not pairs.

    h = sum_t (log pi - log pi_ref)_t
    z = max(0, mean over mismatched completions of h)               KL(pi || pi_ref), without gradient
    loss = good * (1 - sigmoid(beta (h - z)))  for a score above `threshold`,  bad * (1 - sigmoid(beta (z - h)))  otherwise

A mismatched completion is the answer to another prompt. The offline stage adds one to each group (`needs` names it),
without a score: it is used for z and nothing else. z is computed over the whole update, with the policy before the
update (`old_logprobs_BT`), so the result does not depend on how the update is split into passes. The paper recommends
weights with good * n_good about 1 to 4/3 of bad * n_bad. If a judge gives only an order, the offline stage makes
rewards from 0 to 1: the share of the prompt's other completions that one beats. A thumb is then up if the completion is
above the median of its prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Interval

from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.credit import kl_N, scored_only
from tropism.tensors.index import length_N, sum_by_completion
from tropism.tensors.ratio import Ratio

__all__ = ["KTO"]


@dataclass(frozen=True)
class KTO:
    beta: Annotated[float, Gt(0)] = 0.1  # reward units per nat
    threshold: Annotated[float, Interval()] = 0.5  # a higher reward is a thumb up: judge's units, or a share
    good: Annotated[float, Ge(0)] = 1.0
    bad: Annotated[float, Ge(0)] = 1.0

    needs: ClassVar[tuple[str, ...]] = ("mismatched", "reward_N", "old_logprobs_BT", "ref_logprobs_BT")
    predicts: ClassVar[tuple[str, ...]] = ("logprobs_BT",)

    def credit(self, batch: Batch) -> Batch:
        strange_N = ~batch.need("scored_N") & (length_N(batch) > 0)
        drift = (kl_N(batch) * strange_N).sum() / strange_N.sum().clamp(min=1)
        baseline_N = drift.clamp(min=0).expand(batch.n)
        return scored_only(batch).replace(baseline_N=baseline_N)

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        ratio_N = sum_by_completion(prediction.need("logprobs_BT") - batch.need("ref_logprobs_BT"), batch)
        scored_N = batch.need("scored_N")
        up_N = scored_N & (batch.need("reward_N") > self.threshold)
        sign_N, weight_N = torch.where(up_N, 1.0, -1.0), torch.where(up_N, self.good, self.bad)
        value_N = torch.sigmoid(self.beta * sign_N * (ratio_N - batch.need("baseline_N")))
        reward_N = self.beta * ratio_N.detach()
        return Ratio((weight_N * (1 - value_N) * scored_N).sum(), scored_N.sum()), {
            "good_reward": Ratio((reward_N * up_N).sum(), up_N.sum()),
            "bad_reward": Ratio((reward_N * (scored_N & ~up_N)).sum(), (scored_N & ~up_N).sum()),
            "baseline": Ratio(batch.need("baseline_N").sum(), torch.tensor(batch.n)),
        }
