"""V-MPO's weighted likelihood (arXiv 1909.12238), for completions with a score: imitates the better half, with weights.

    A_i = R_i - mean of the scored R of the group              (in ReST: of all samples of the prompt, the dropped included)
    H = all completions with an A at or above the median
    psi_i = softmax over H of A_i / eta,   eta = argmin_eta  eta * epsilon + eta * log mean_H exp(A / eta)
    loss = - sum_{i in H} psi_i |H| * sum_t log pi_t  /  trained tokens of H

With this eta the weighted samples are epsilon nats from the unweighted ones. It is computed exactly for each update (a
convex function of one number); the paper follows its gradient. Left out: the paper's bound on the change of the policy,
and the behaviour prior of BVMPO; here the number of updates of an Improve step limits the change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.credit import expected_N, scored_only, spread, total_N
from tropism.tensors.ratio import Ratio

__all__ = ["VMPO"]


@dataclass(frozen=True)
class VMPO:
    epsilon: Annotated[float, Gt(0)] = 0.1  # nats

    needs: ClassVar[tuple[str, ...]] = ("reward_N", "baseline_N")
    predicts: ClassVar[tuple[str, ...]] = ("logprobs_BT",)

    def credit(self, batch: Batch) -> Batch:
        batch = scored_only(batch)
        scored_N = batch.need("scored_N")
        advantage_N = total_N(batch) - expected_N(batch)
        ordered = advantage_N[scored_N].sort(descending=True).values
        top_N = scored_N & (advantage_N >= ordered[(len(ordered) - 1) // 2]) if len(ordered) else scored_N
        top_BT = batch.loss_mask_BT & top_N[batch.completion_BT.clamp(min=0)]
        weight_N = torch.zeros_like(advantage_N)
        if top_N.any():
            top = advantage_N[top_N]
            weight_N[top_N] = (top / temperature(top, self.epsilon)).softmax(0) * len(top)
        batch = batch.replace(loss_mask_BT=top_BT)
        return batch.replace(advantages_BT=spread(weight_N, batch))

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        weight_BT, logprobs_BT, mask = batch.need("advantages_BT"), prediction.need("logprobs_BT"), batch.loss_mask_BT
        return Ratio(-(weight_BT * logprobs_BT * mask).sum(), mask.sum()), {
            "logprob": Ratio((logprobs_BT.detach() * mask).sum(), mask.sum()),
        }


def temperature(advantage: Tensor, epsilon: float) -> float:
    """The eta > 0 that minimises the dual, by golden section on its logarithm in units of the largest advantage.

    If no eta makes the weights differ by epsilon (because too many completions are the best), it is the smallest eta
    that is tried: then the best ones share the weight, and rounding errors in the advantages have no effect.
    """
    top = advantage.double() - advantage.max()
    unit = float(advantage.abs().max()) or 1.0
    top = top / unit

    def dual(log_eta: float) -> float:
        eta = math.exp(log_eta)
        return eta * (epsilon + float(torch.logsumexp(top / eta, 0)) - math.log(len(top)))

    low, high, golden = -9.0, 9.0, (math.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if dual(a) < dual(b) else (a, high)
    return unit * math.exp((low + high) / 2)
