"""Next-token negative log-likelihood: pretraining and supervised fine-tuning.

    loss = - sum_t log pi(token_t | its ancestors) / number of trained tokens

Divided once by the tokens of the whole update: every token has the same weight, however the examples were packed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.ratio import Ratio

__all__ = ["NLL"]


@dataclass(frozen=True)
class NLL:
    needs: ClassVar[tuple[str, ...]] = ()
    predicts: ClassVar[tuple[str, ...]] = ("logprobs_BT",)

    def credit(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        total = -(prediction.need("logprobs_BT") * batch.loss_mask_BT).sum()
        return Ratio(total, batch.loss_mask_BT.sum()), {}
