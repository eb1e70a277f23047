"""Advantage-induced policy alignment (arXiv 2306.02231): regress the log-ratio on the advantage.

    A = GAE(score at the last token; V), centred over the trained tokens of the round, then A/kl clipped to ± `limit`
    loss = (log pi - log pi_init - A/kl)²  +  value_weight * ½ (V - R)²            mean over trained tokens

The target is pi* ∝ pi_init exp(A/kl) with its normaliser taken as 1, which the centring makes true on average; there is
no KL in the reward and no ratio to clip, because the target itself stays near pi_init. It is a target for each token: A
does not pay for the KL of what a token leads to, so over several tokens it is not the pi* of whole answers. On fresh
samples the gradient at pi = pi_init is that of the policy gradient times 2/kl, so a learning rate belongs to a kl.
`anchor` says what pi_init is: `initial`, the policy before the first round, is the paper's; `round` re-anchors at the
policy that sampled the round, which makes each round a trust-region step that forgets where training began: kl then
bounds the pace, not the distance. The released code whitens A, padding included, so that its kl depends on the batch;
here A keeps the reward's units. Left out: AWR, the paper's other baseline (`algorithms/awr.py`).
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
    limit: Annotated[float, Gt(0)] = 10.0  # nats: a target log-ratio beyond it is cut
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
