"""Generalised knowledge distillation (arXiv 2306.13649): brings the policy's next-token distributions near a teacher's.

    loss   = sum over trained tokens of D(teacher, policy)  /  trained tokens
    D      = beta * KL(teacher, mix) + (1 - beta) * KL(policy, mix)        mix = beta * teacher + (1 - beta) * policy
    beta 0 : D = KL(teacher, policy)    forward: the policy covers everything that the teacher may say
    beta 1 : D = KL(policy, teacher)    reverse: the policy says only what the teacher finds likely

Both distributions are complete, over all next tokens, at `temperature`. For 0 < beta < 1, D is the paper's. At 0 and 1
that D would be 0; here it is the limit of D / beta or of D / (1 - beta), as the paper says and TRL computes. So D is
small near these ends (about beta or 1 - beta times a KL), and different values of beta need different learning rates.

Left out: the gradient through the sampling of the answers (the paper leaves it out too), and a reward in addition to
the divergence. Where the answers come from is decided by the stage (`stages/distill.py`).
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
