"""GOLD (arXiv 2009.07839): learning from given text by off-policy policy gradient.

    loss = - sum_t max(pi(token_t), floor) * log pi(token_t)  /  trained tokens         the factor without gradient

The factor is the importance weight of a token against demonstrators taken as uniform over what they show: tokens the policy
finds unlikely are learned less, so that a mode is sharpened rather than every demonstration covered. This is the paper's
delta reward: each given completion is worth 1, which suits completions that were kept by a threshold.
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
