"""PPO for language models (arXiv 1707.06347, 1909.08593): per-token KL in the reward, credit by a critic.

    r_t = -kl * (log pi_old - log pi_ref)_t  +  [t is the last token] * score
    A, R = GAE(r, V);  A whitened over all trained tokens of the round
    loss = max(-A rho, -A clip(rho, 1 ± clip))  +  value_weight * ½ max((V - R)², (clip(V, V_old ± value_clip) - R)²)
           -  entropy * H(pi)_t

rho = pi / pi_old. The score is the reward of the stop token, which is trained like any other. The KL estimate in the
reward is k1 without gradient: its sum over a completion is the exact log-ratio. `kl_target` turns on the controller of
1909.08593 for the KL per completion; its state is the field `kl` itself, so checkpoints of the algorithm have it. A
completion without a score is left out. For A < 0 the clipped loss has no bound; `dual_clip` limits it to dual_clip *
|A| (arXiv 1912.09729). `entropy` rewards the entropy of each trained token's distribution, with its gradient. As A is
whitened, `entropy` is in standard deviations of A. Left out: bootstrapping at the length limit (a cut
answer is terminal and gets the stage's penalty `shaping.missing_stop`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Interval

from tropism.store.fingerprint import ADDED
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.credit import by_critic, scored_only
from tropism.tensors.maths import clipped, k3, whiten
from tropism.tensors.ratio import Ratio

__all__ = ["PPO"]


@dataclass(frozen=True)
class PPO:
    clip: Annotated[float, Gt(0)] = 0.2
    kl: Annotated[float, Ge(0)] = 0.05  # reward units per nat
    kl_target: Annotated[float, Ge(0)] = 0.0  # nats per completion; 0 = fixed kl
    kl_horizon: Annotated[int, Ge(1)] = 10_000  # completions
    gamma: Annotated[float, Interval(ge=0, le=1)] = 1.0
    lam: Annotated[float, Interval(ge=0, le=1)] = 0.95
    value_clip: Annotated[float, Gt(0)] = 0.2
    value_weight: Annotated[float, Ge(0)] = 0.5
    dual_clip: Annotated[float, Gt(1)] | None = field(default=None, metadata=ADDED)  # in units of |A|
    entropy: Annotated[float, Ge(0)] = field(default=0.0, metadata=ADDED)  # standard deviations of A per nat

    needs: ClassVar[tuple[str, ...]] = ("reward_N", "old_logprobs_BT", "ref_logprobs_BT", "values_BT")
    predicts: ClassVar[tuple[str, ...]] = ("logprobs_BT", "entropy_BT", "values_BT")

    @property
    def refers(self) -> bool:
        return self.kl > 0 or self.kl_target > 0  # the controller reads it too

    def credit(self, batch: Batch) -> Batch:
        batch = scored_only(batch)
        advantages_BT, returns_BT = by_critic(batch, self.kl, self.gamma, self.lam)
        return batch.replace(advantages_BT=whiten(advantages_BT, batch.loss_mask_BT), returns_BT=returns_BT)

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        mask, advantage, target = batch.loss_mask_BT, batch.need("advantages_BT"), batch.need("returns_BT")
        logprobs, old, before = (
            prediction.need("logprobs_BT"),
            batch.need("old_logprobs_BT"),
            batch.need("values_BT"),
        )
        policy, cut = clipped(logprobs - old, advantage, self.clip, self.clip, self.dual_clip)
        value = prediction.need("values_BT")
        near = before + (value - before).clamp(-self.value_clip, self.value_clip)
        critic = 0.5 * torch.maximum((value - target) ** 2, (near - target) ** 2)
        loss, tokens = policy + self.value_weight * critic, mask.sum()
        if self.entropy:
            loss = loss - self.entropy * prediction.need("entropy_bonus_BT")

        def mean(x_BT: torch.Tensor) -> Ratio:
            return Ratio((x_BT * mask).sum(), tokens)

        return mean(loss), {
            "policy_loss": mean(policy).detach(),
            "value_loss": mean(critic).detach(),
            "clip_fraction": mean(cut.float()),
            "kl_to_old": mean(k3(old, logprobs.detach())),
            "entropy": mean(prediction.need("entropy_BT")),
        }

    def adapt(self, kl: float, completions: int) -> PPO:
        """The algorithm for the next round, after `completions` completions with a mean KL of `kl` nats each."""
        if not self.kl_target:
            return self
        error = min(max(kl / self.kl_target - 1, -0.2), 0.2)
        return replace(self, kl=self.kl * (1 + error * completions / self.kl_horizon))
