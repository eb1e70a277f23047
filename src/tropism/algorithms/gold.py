"""GOLD (arXiv 2009.07839): learning from given text with an off-policy policy gradient.

    loss = - sum_t max(pi(token_t), floor) * log pi(token_t)  /  trained tokens         the factor without gradient

The factor is the importance weight of a token, where the demonstrators are assumed to be uniform over their
completions. The policy learns less from tokens that it finds unlikely: it concentrates on a part of the demonstrations
and does not try to cover all. This is the paper's delta reward: each given completion has the reward 1, which fits
completions that were filtered by a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Interval

from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.ratio import Ratio

__all__ = ["GOLD"]


@dataclass(frozen=True)
class GOLD:
    floor: Annotated[float, Interval(ge=0, le=1)] = 0.1  # smallest weight of a token

    needs: ClassVar[tuple[str, ...]] = ()
    predicts: ClassVar[tuple[str, ...]] = ("logprobs_BT",)

    def credit(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        logprobs_BT, mask = prediction.need("logprobs_BT"), batch.loss_mask_BT
        weight_BT = logprobs_BT.detach().exp().clamp(min=self.floor)
        return Ratio(-(weight_BT * logprobs_BT * mask).sum(), mask.sum()), {
            "weight": Ratio((weight_BT * mask).sum(), mask.sum()),
            "logprob": Ratio((logprobs_BT.detach() * mask).sum(), mask.sum()),
        }
