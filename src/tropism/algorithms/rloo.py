"""REINFORCE with a leave-one-out baseline (arXiv 2402.14740): the whole completion is one action.

    R_i = score_i + rewards of its steps - kl * sum_t (log pi_old - log pi_ref)_t
    A_i = R_i - mean of the other scored R of the group          (= K/(K-1) (R_i - mean R), without bias)
    loss = max(-A rho, -A clip(rho, 1 ± clip)) - entropy * sum_t H(pi)_t,   rho = pi/pi_old of the completion
           mean over completions

On fresh samples rho = 1 and the gradient is the gradient of -A log pi. The clip, which is not in the paper, only
affects later minibatches of a round. It does not bound the loss of a completion with A < 0 that has become more likely;
`dual_clip` (arXiv 1912.09729) limits this loss to dual_clip * |A|. `entropy` rewards the entropy of each trained
token's distribution. A group with only one scored completion has no baseline and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from tropism.store.fingerprint import ADDED
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.credit import group_mean, kl_N, scored_only, spread, total_N, without_credit
from tropism.tensors.index import length_N, sum_by_completion
from tropism.tensors.maths import clipped
from tropism.tensors.ratio import Ratio

__all__ = ["RLOO"]


@dataclass(frozen=True)
class RLOO:
    kl: Annotated[float, Ge(0)] = 0.05  # reward units per nat
    clip: Annotated[float, Gt(0)] = 0.2
    dual_clip: Annotated[float, Gt(1)] | None = field(default=None, metadata=ADDED)  # in units of |A|
    entropy: Annotated[float, Ge(0)] = field(default=0.0, metadata=ADDED)  # reward units per nat

    needs: ClassVar[tuple[str, ...]] = ("reward_N", "others", "old_logprobs_BT", "ref_logprobs_BT")
    predicts: ClassVar[tuple[str, ...]] = ("logprobs_BT", "entropy_BT")

    @property
    def refers(self) -> bool:
        return self.kl > 0

    def credit(self, batch: Batch) -> Batch:
        batch = scored_only(batch)
        reward_N = total_N(batch) - (self.kl * kl_N(batch) if self.kl else 0.0)
        mean_N, count_N = group_mean(reward_N, batch)
        advantage_N = (reward_N - mean_N) * count_N / (count_N - 1).clamp(min=1)
        paired_BT = batch.loss_mask_BT & (count_N > 1)[batch.completion_BT.clamp(min=0)]
        return batch.replace(loss_mask_BT=paired_BT, advantages_BT=spread(advantage_N, batch))

    def idle(self, batch: Batch) -> Tensor:
        return without_credit(batch) & (self.entropy == 0)

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        mask, tokens_N = batch.loss_mask_BT, length_N(batch)
        change_BT = prediction.need("logprobs_BT") - batch.need("old_logprobs_BT")
        advantage_N = sum_by_completion(batch.need("advantages_BT"), batch) / tokens_N.clamp(min=1)
        change_N = sum_by_completion(change_BT, batch)
        loss_N, cut_N = clipped(change_N, advantage_N, self.clip, self.clip, self.dual_clip)
        loss_N = loss_N * (tokens_N > 0)
        if self.entropy:
            loss_N = loss_N - self.entropy * sum_by_completion(prediction.need("entropy_bonus_BT"), batch)
        completions = (tokens_N > 0).sum()
        return Ratio(loss_N.sum(), completions), {
            "clip_fraction": Ratio(cut_N.sum(), completions),
            "entropy": Ratio((prediction.need("entropy_BT") * mask).sum(), mask.sum()),
        }
