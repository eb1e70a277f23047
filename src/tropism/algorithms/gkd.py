"""Generalised knowledge distillation (arXiv 2306.13649): the policy's next-token distributions near those of a teacher.

    loss   = sum over trained tokens of D(teacher, policy)  /  trained tokens
    D      = beta * KL(teacher, mix) + (1 - beta) * KL(policy, mix)        mix = beta * teacher + (1 - beta) * policy
    beta 0 : D = KL(teacher, policy)    forward: the policy covers all that the teacher does
    beta 1 : D = KL(policy, teacher)    reverse: the policy keeps to what the teacher is sure of

Both distributions are the whole ones, over all tokens that can come next, at `temperature`. D between the ends is the
paper's; at the ends that would be 0, and what stands here is the limit of D / beta and of D / (1 - beta), which the paper
names and TRL computes. So D is small near the ends (about beta or 1 - beta of a KL), and a learning rate for one beta does
not do for another.

Left out: the gradient through which answers the policy samples (the paper leaves it out too), and a reward beside the
divergence. Whose answers they are is the stage's matter (`stages/distill.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt, Interval
from torch import Tensor

from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.maths import jensen_shannon
from tropism.tensors.ratio import Ratio

__all__ = ["GKD"]


@dataclass(frozen=True)
class GKD:
    beta: Annotated[float, Interval(ge=0, le=1)] = 0.5  # 0 forward KL, 1 reverse KL
    temperature: Annotated[float, Gt(0)] = 1.0  # of both distributions

    needs: ClassVar[tuple[str, ...]] = ("teacher",)
    predicts: ClassVar[tuple[str, ...]] = ("divergence_BT",)

    def divergence(self, policy_MV: Tensor, teacher_MV: Tensor) -> Tensor:
        return jensen_shannon(policy_MV / self.temperature, teacher_MV / self.temperature, self.beta)

    def credit(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        total = (prediction.need("divergence_BT") * batch.loss_mask_BT).sum()
        return Ratio(total, batch.loss_mask_BT.sum()), {}
