"""Advantage-weighted regression (arXiv 1910.00177): imitate every completion, better ones more.

    A_i = R_i - mean of the scored R of the group              (in ReST: of all samples of the prompt, the dropped included)
    loss = - sum_i min(exp(A_i / temperature), limit) * sum_t log pi_t  /  trained tokens

With exact weights its optimum is pi_samples exp(A/temperature) / Z: the KL-regularised optimum around the policy that
sampled. If the mean were taken only over the survivors of a threshold, a single survivor would always have the weight
1, whatever its reward: that would be plain imitation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt

from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.credit import expected_N, scored_only, spread, total_N
from tropism.tensors.ratio import Ratio

__all__ = ["AWR"]


@dataclass(frozen=True)
class AWR:
    temperature: Annotated[float, Gt(0)] = 1.0  # reward units
    limit: Annotated[float, Gt(0)] = 20.0  # largest weight

    needs: ClassVar[tuple[str, ...]] = ("reward_N", "baseline_N")
    predicts: ClassVar[tuple[str, ...]] = ("logprobs_BT",)

    def credit(self, batch: Batch) -> Batch:
        batch = scored_only(batch)
        weight_N = ((total_N(batch) - expected_N(batch)) / self.temperature).exp().clamp(max=self.limit)
        return batch.replace(advantages_BT=spread(weight_N, batch))

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        weight_BT, logprobs_BT, mask = batch.need("advantages_BT"), prediction.need("logprobs_BT"), batch.loss_mask_BT
        return Ratio(-(weight_BT * logprobs_BT * mask).sum(), mask.sum()), {
            "weight": Ratio((weight_BT * mask).sum(), mask.sum()),
            "logprob": Ratio((logprobs_BT.detach() * mask).sum(), mask.sum()),
        }
