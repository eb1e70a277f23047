"""ORPO (arXiv 2403.07691): fine-tunes on the best completions and raises their odds over the others; no reference
model.

    l_k  = 1 / T_k * sum_t log pi_t                                                        T = trained tokens
    s_k  = log odds = l_k - log(1 - exp l_k)
    loss = - mean over the best of l  +  odds * plackett_luce(s)                           K = 2: - log sigmoid(s_w - s_l)

Mean over the groups that rank something; ties as in `algorithms/kwise.py`. `odds` is the paper's lambda. The first term
keeps the best answers likely, so that a base model can learn from preferences without an sft stage before. A completion
without a trained token has no mean and counts as unranked. A mean probability within 1e-6 of 1 gets no gradient through
its odds, which are infinite at 1. In the first term TRL also trains the prompt and pools the tokens of all examples;
the paper does neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from tropism.algorithms._ranked import ranked, without_empty
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.maths import plackett_luce
from tropism.tensors.ratio import Ratio

__all__ = ["ORPO"]


@dataclass(frozen=True)
class ORPO:
    odds: Annotated[float, Ge(0)] = 0.1  # nats per token and log-odds: lambda in the paper

    needs: ClassVar[tuple[str, ...]] = ("rank_N",)
    predicts: ClassVar[tuple[str, ...]] = ("logprobs_BT",)

    def credit(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        field = ranked(without_empty(batch), prediction.need("logprobs_BT"), batch)
        below_GK = field.logprob_GK.clamp(max=-1e-6)
        score_GK = below_GK - (-torch.expm1(below_GK)).log()
        loss_G = self.odds * plackett_luce(score_GK, field.rank_GK, field.mask_GK) - field.best_logprob_G()
        return field.mean(loss_G, score_GK)
