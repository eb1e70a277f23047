"""SimPO (arXiv 2405.14734): preferences on the mean log-probability of a completion's tokens, without a reference.

    s_k  = beta / T_k * sum_t log pi_t                                                     T = trained tokens
    loss = - sum_i [ s_i - log( sum_{j as good as i} exp s_j + sum_{j worse than i} exp(s_j + margin) ) ]

Summed over the ranked completions of a group, mean over the groups that rank something. For K = 2 it is the paper's
- log sigmoid(s_w - s_l - margin), where `margin` is its gamma; ties as in `algorithms/kwise.py`. The score is the mean
log-probability, so a long answer has no advantage by its length. A completion without a trained token has no mean and
counts as unranked. Nothing keeps the policy near its start: the paper uses few updates with a small learning rate and
tunes gamma / beta (about 0.5). `best_logprob` shows whether the best answers become less likely. Left out: the NLL term
of CPO (`orpo` has one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from tropism.algorithms._ranked import ranked, without_empty
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.maths import plackett_luce
from tropism.tensors.ratio import Ratio

__all__ = ["SimPO"]


@dataclass(frozen=True)
class SimPO:
    beta: Annotated[float, Gt(0)] = 2.0  # log-odds per nat per token
    margin: Annotated[float, Ge(0)] = 1.0  # log-odds: gamma in the paper

    needs: ClassVar[tuple[str, ...]] = ("rank_N",)
    predicts: ClassVar[tuple[str, ...]] = ("logprobs_BT",)

    def credit(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        field = ranked(without_empty(batch), prediction.need("logprobs_BT"), batch)
        score_GK = self.beta * field.logprob_GK
        loss_G = plackett_luce(score_GK, field.rank_GK, field.mask_GK, margin=self.margin)
        return field.mean(loss_G, score_GK)
