"""Advantage-induced policy alignment (arXiv 2306.02231): regress the log-ratio on the advantage.

    A = GAE(score at the last token; V), centred over the trained tokens of the round, then A/kl clipped to ± `limit`
    loss = (log pi - log pi_init - A/kl)²  +  value_weight * ½ (V - R)²            mean over trained tokens

The target is pi* ∝ pi_init exp(A/kl) with its normaliser taken as 1; centring makes this true on average. There is no
KL in the reward and no ratio to clip, because the target itself stays near pi_init. It is a target for each token: A
does not include the KL of later tokens, so over several tokens the target is not the pi* of whole answers. On fresh
samples the gradient at pi = pi_init is the policy gradient times 2/kl, so the right learning rate depends on kl.
`anchor` chooses pi_init. `initial`, as in the paper, is the policy before the first round. `round` is the policy that
sampled the round: then each round is a trust-region step, and kl limits the change in a round, not the distance from
the start. The released code whitens A, padding included, so that its kl depends on the batch; here A keeps the reward's
units. Left out: AWR, the paper's other baseline (`algorithms/awr.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Interval

from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.credit import by_critic, scored_only
from tropism.tensors.ratio import Ratio

__all__ = ["APA"]


@dataclass(frozen=True)
class APA:
    kl: Annotated[float, Gt(0)] = 0.1  # reward units per nat: lambda in the paper
    anchor: Literal["initial", "round"] = "initial"
    limit: Annotated[float, Gt(0)] = 10.0  # nats: target log-ratios are clipped to this
    gamma: Annotated[float, Interval(ge=0, le=1)] = 1.0
    lam: Annotated[float, Interval(ge=0, le=1)] = 0.95
    value_weight: Annotated[float, Ge(0)] = 0.5

    needs: ClassVar[tuple[str, ...]] = ("reward_N", "old_logprobs_BT", "ref_logprobs_BT", "values_BT")
    predicts: ClassVar[tuple[str, ...]] = ("logprobs_BT", "entropy_BT", "values_BT")

    def credit(self, batch: Batch) -> Batch:
        batch = scored_only(batch)
        mask = batch.loss_mask_BT
        advantages_BT, returns_BT = by_critic(batch, 0.0, self.gamma, self.lam)
        centre = (advantages_BT * mask).sum() / mask.sum().clamp(min=1)
        bound = self.limit * self.kl
        return batch.replace(advantages_BT=(advantages_BT - centre).clamp(-bound, bound) * mask, returns_BT=returns_BT)

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        mask, logprobs_BT = batch.loss_mask_BT, prediction.need("logprobs_BT")
        anchor_BT = batch.need("ref_logprobs_BT" if self.anchor == "initial" else "old_logprobs_BT")
        advantage_BT = batch.need("advantages_BT")
        policy_BT = (logprobs_BT - anchor_BT - advantage_BT / self.kl) ** 2
        critic_BT = 0.5 * (prediction.need("values_BT") - batch.need("returns_BT")) ** 2
        tokens = mask.sum()

        def mean(x_BT) -> Ratio:
            return Ratio((x_BT * mask).sum(), tokens)

        return mean(policy_BT + self.value_weight * critic_BT), {
            "policy_loss": mean(policy_BT).detach(),
            "value_loss": mean(critic_BT).detach(),
            "cut_fraction": mean((advantage_BT.abs() >= self.limit * self.kl).float()),
            "entropy": mean(prediction.need("entropy_BT")),
        }
