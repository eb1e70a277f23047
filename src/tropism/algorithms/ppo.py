"""PPO for language models (arXiv 1707.06347, 1909.08593): per-token KL in the reward, credit by a critic.

    r_t = -kl * (log pi_old - log pi_ref)_t  +  [t is the last token] * (score - missing_stop * [never stopped])
    A, R = GAE(r, V);  A whitened over all trained tokens of the round
    loss = max(-A rho, -A clip(rho, 1 ± clip))  +  value_weight * ½ max((V - R)², (clip(V, V_old ± value_clip) - R)²)

rho = pi / pi_old. The score stands on the stop token, which is trained like any other. The KL estimate in the reward is k1
without gradient: summed over a completion it is the exact log-ratio. `kl_target` turns on the controller of 1909.08593 on
the KL per completion; its state is the field `kl` itself, so it is checkpointed with the algorithm. A completion without a
score leaves the batch. Left out: an entropy bonus and dual clipping (no gain seen at this scale), bootstrapping at the
length limit (a cut answer is terminal and pays `missing_stop`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from tropism.tensors.batch import Batch, Prediction, Ratio, by_completion
from tropism.tensors.maths import gae, k1, k3, whiten

__all__ = ["PPO"]


@dataclass(frozen=True)
class PPO:
    clip: float = 0.2
    kl: float = 0.05  # reward units per nat
    kl_target: float = 0.0  # nats per completion; 0 = fixed kl
    kl_horizon: int = 10_000  # completions
    gamma: float = 1.0
    lam: float = 0.95
    value_clip: float = 0.2
    value_weight: float = 0.5
    missing_stop: float = 1.0  # reward units taken from an answer that never stops

    needs: ClassVar[tuple[str, ...]] = ("old_logprobs_BT", "ref_logprobs_BT", "values_BT")
    predicts: ClassVar[tuple[str, ...]] = ("logprobs_BT", "entropy_BT", "values_BT")

    def credit(self, batch: Batch) -> Batch:
        scored_N = batch.need("scored_N")
        keep_BT = batch.loss_mask_BT & scored_N[batch.completion_BT.clamp(min=0)]
        batch = batch.replace(loss_mask_BT=keep_BT)
        index_NL, mask_NL = by_completion(batch)

        def rows(x_BT: torch.Tensor) -> torch.Tensor:
            return x_BT.flatten()[index_NL]

        reward_NL = -self.kl * rows(k1(batch.need("old_logprobs_BT"), batch.need("ref_logprobs_BT")))
        score_N = batch.need("reward_N") - self.missing_stop * ~batch.ended_N
        last_NL = mask_NL & (mask_NL.cumsum(1) == mask_NL.sum(1, keepdim=True))
        reward_NL = reward_NL + last_NL * score_N[:, None]
        advantages_NL, returns_NL = gae(reward_NL, rows(batch.need("values_BT")), mask_NL, self.gamma, self.lam)

        def columns(x_NL: torch.Tensor) -> torch.Tensor:
            flat = torch.zeros(batch.tokens_BT.numel(), dtype=x_NL.dtype, device=x_NL.device)
            flat[index_NL[mask_NL]] = x_NL[mask_NL]
            return flat.view_as(batch.tokens_BT)

        return batch.replace(advantages_BT=columns(whiten(advantages_NL, mask_NL)), returns_BT=columns(returns_NL))

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        mask, advantage, target = batch.loss_mask_BT, batch.need("advantages_BT"), batch.need("returns_BT")
        logprobs, old, before = (
            prediction.need("logprobs_BT"),
            batch.need("old_logprobs_BT"),
            batch.need("values_BT"),
        )
        ratio = (logprobs - old).clamp(-20, 20).exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        policy = torch.maximum(-advantage * ratio, -advantage * clipped)
        value = prediction.need("values_BT")
        near = before + (value - before).clamp(-self.value_clip, self.value_clip)
        critic = 0.5 * torch.maximum((value - target) ** 2, (near - target) ** 2)
        tokens = mask.sum()

        def mean(x_BT: torch.Tensor) -> Ratio:
            return Ratio((x_BT * mask).sum(), tokens)

        return mean(policy + self.value_weight * critic), {
            "policy_loss": mean(policy).detach(),
            "value_loss": mean(critic).detach(),
            "clip_fraction": mean((-advantage * clipped > -advantage * ratio).float()),
            "kl_to_old": mean(k3(old, logprobs.detach())),
            "entropy": mean(prediction.need("entropy_BT")),
        }

    def adapt(self, kl: float, completions: int) -> PPO:
        """The algorithm of the next round after `completions` completions measured `kl` nats each to the reference."""
        if not self.kl_target or math.isnan(kl):  # NaN: no completion of the round could be scored
            return self
        error = min(max(kl / self.kl_target - 1, -0.2), 0.2)
        return replace(self, kl=self.kl * (1 + error * completions / self.kl_horizon))
