"""Group relative policy optimisation (arXiv 2402.03300): the other completions of the prompt are the baseline.

    R_i = score_i - kl * sum_t (log pi_old - log pi_ref)_t                         (kl_in = "reward")
    A_i = R_i - mean(R),  over the scored completions of the group;  divided by their standard deviation if scale = "std"
    loss_t = max(-A rho, -A clip(rho, 1 - clip, 1 + clip_high))  [ +  kl * rho_t * KL_t,  kl_in = "loss" ]  - entropy * H_t

Rewards of steps inside the answers (section 4.1.3) are added to A of each token: the rewards of all steps that end at
it or later, relative to all steps of the group (`tensors/credit.py:steps_ahead`). With ratio = "completion" they are
added to the score.

The published variants are fields:
- `scale` "none" (Dr.GRPO, arXiv 2503.20783): "std" gives easy and hard prompts more weight;
- `weight` in the sum: "token" (DAPO, 2503.14476: every token of the update counts the same), "completion" (the first
  paper: the mean of each completion's mean, so tokens of long answers count less), "length" (Dr.GRPO: the sum divided
  by a fixed `length`);
- `clip_high` above `clip` (DAPO); `dual_clip`: for A < 0 the loss is dual_clip * |A| at most (1912.09729);
- `drop_equal`: groups with equal rewards, from which nothing is learned, are left out of the loss and its count,
  and the rl stage samples others instead;
- `entropy`: a bonus for the entropy H of each trained token's distribution;
- `ratio`: rho is rho_t = pi/pi_old of the "token", or exp(mean over the "completion"'s tokens of log rho_t) for all of
  them (GSPO, 2507.18071, with weight = "completion", clip = 3e-4, clip_high = 4e-4);
- `surrogate` "cispo": -A min(rho, 1 + clip_high) log pi, rho without gradient, so that every token has a gradient
  (2506.13585; as in its experiments there is no lower bound: `clip` has no effect).

The defaults are not the first paper's scale = "std" and kl_in = "loss". With `scale` "none" and `kl_in` "reward" the
policy converges to pi_ref exp(score/kl), for every K, as with PPO and RLOO at the same kl. With "std" the size of the
reward does not matter. For two answers and many samples the fixed point is then
logit(p) - logit(p_ref) = 1/(kl sqrt(p(1-p))), and for p_ref = ½ there is none below kl = 1.51: the policy changes until
all samples of a prompt are equal, which over-optimises a learned reward. With "std" use a kl above that, or few rounds.

KL in the loss has the value of k3 and the gradient of k2 (½ log² has the gradient of the reverse KL under samples of
pi; the gradient of k3 belongs to another divergence), times rho, since pi_old sampled. It acts on each token
separately, so the fixed point is not pi_ref exp(R/kl) of whole answers but pi(a|s) ∝ pi_ref(a|s) exp(E[R|s,a]/kl). With
scale = "none" it counts K/(K-1) times, because the mean includes the completion itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from tropism.errors import TropismError
from tropism.store.fingerprint import ADDED
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.credit import (
    group_differs,
    group_mean,
    kl_N,
    scored_only,
    spread,
    steps_ahead,
    total_N,
    without_credit,
)
from tropism.tensors.index import length_N, sum_by_completion
from tropism.tensors.maths import cispo, clipped, k3
from tropism.tensors.ratio import Ratio

__all__ = ["GRPO"]


@dataclass(frozen=True)
class GRPO:
    clip: Annotated[float, Gt(0)] = 0.2
    clip_high: Annotated[float, Gt(0)] = 0.2
    kl: Annotated[float, Ge(0)] = 0.05  # reward units per nat; with scale = "std" standard deviations per nat
    kl_in: Literal["loss", "reward"] = "reward"
    scale: Literal["std", "none"] = "none"
    weight: Literal["token", "completion", "length"] = "token"
    length: Annotated[int, Ge(0)] = 0  # tokens, for weight = "length"
    drop_equal: bool = True
    ratio: Literal["token", "completion"] = field(default="token", metadata=ADDED)
    surrogate: Literal["ppo", "cispo"] = field(default="ppo", metadata=ADDED)
    dual_clip: Annotated[float, Gt(1)] | None = field(default=None, metadata=ADDED)  # in units of |A|
    entropy: Annotated[float, Ge(0)] = field(default=0.0, metadata=ADDED)  # in units of kl

    needs: ClassVar[tuple[str, ...]] = ("reward_N", "others", "old_logprobs_BT", "ref_logprobs_BT")
    predicts: ClassVar[tuple[str, ...]] = ("logprobs_BT", "entropy_BT")

    def __post_init__(self) -> None:
        if (self.weight == "length") != (self.length > 0):
            raise TropismError(f'grpo.length = {self.length} belongs to weight = "length", and is above 0: set both')
        if self.dual_clip is not None and self.surrogate == "cispo":
            raise TropismError('grpo.dual_clip bounds the loss of surrogate = "ppo": leave one of the two out')

    @property
    def refers(self) -> bool:
        return self.kl > 0

    def teaches(self, batch: Batch) -> Tensor:
        """(G,) True = the group's rewards can change the policy; the rl stage replaces the other groups."""
        differs_G = group_differs(self._score_N(batch), batch)
        if self._by_step(batch):
            batch = scored_only(batch)
            apart_N = sum_by_completion(steps_ahead(batch).abs(), batch)
            differs_G = differs_G | (apart_N.new_zeros(len(differs_G)).index_add(0, batch.group_N, apart_N) > 0)
        return differs_G if self.drop_equal else torch.ones_like(differs_G)

    def _by_step(self, batch: Batch) -> bool:
        """Whether the tokens of a completion may differ in credit: not if it is one action, with one ratio."""
        return batch.step_BT is not None and self.ratio == "token"

    def _score_N(self, batch: Batch) -> Tensor:
        return batch.need("reward_N") if self.ratio == "token" else total_N(batch)

    def credit(self, batch: Batch) -> Batch:
        batch = scored_only(batch)
        priced = self.kl > 0 and self.kl_in == "reward"
        reward_N = self._score_N(batch) - (self.kl * kl_N(batch) if priced else 0.0)
        mean_N, count_N = group_mean(reward_N, batch)
        apart_N = reward_N - mean_N
        square_N, _ = group_mean(apart_N**2, batch)
        advantage_N = apart_N
        if self.scale == "std":
            spread_N = (square_N * count_N / (count_N - 1).clamp(min=1)).sqrt()  # of a sample, as in TRL
            advantage_N = apart_N / (spread_N + 1e-4)
        advantages_BT = spread(advantage_N, batch)
        if self._by_step(batch):
            advantages_BT = advantages_BT + steps_ahead(batch, self.scale == "std")
        batch = batch.replace(advantages_BT=advantages_BT)
        teaches_N = self.teaches(batch)[batch.group_N]
        return batch.replace(loss_mask_BT=batch.loss_mask_BT & teaches_N[batch.completion_BT.clamp(min=0)])

    def idle(self, batch: Batch) -> Tensor:
        acts = self.entropy > 0 or (self.kl > 0 and self.kl_in == "loss")
        return without_credit(batch) & (not acts)

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        mask, advantage, logprobs = batch.loss_mask_BT, batch.need("advantages_BT"), prediction.need("logprobs_BT")
        tokens, tokens_N, completions = mask.sum(), length_N(batch), (length_N(batch) > 0).sum()
        change_BT = own_BT = logprobs - batch.need("old_logprobs_BT")
        if self.ratio == "completion":
            change_BT = spread(sum_by_completion(own_BT, batch) / tokens_N.clamp(min=1), batch)
        if self.surrogate == "cispo":
            loss_BT, cut_BT = cispo(change_BT, logprobs, advantage, self.clip_high)
        else:
            loss_BT, cut_BT = clipped(change_BT, advantage, self.clip, self.clip_high, self.dual_clip)
        if self.kl > 0 and self.kl_in == "loss":
            reference = batch.need("ref_logprobs_BT")
            k2 = 0.5 * (logprobs - reference) ** 2
            kl_BT = k3(logprobs.detach(), reference) + k2 - k2.detach()
            loss_BT = loss_BT + self.kl * own_BT.detach().clamp(-20, 20).exp() * kl_BT
        if self.entropy:
            loss_BT = loss_BT - self.entropy * prediction.need("entropy_bonus_BT")
        if self.weight == "token":
            loss = Ratio((loss_BT * mask).sum(), tokens)
        elif self.weight == "completion":
            loss = Ratio((loss_BT * spread(1 / tokens_N.clamp(min=1), batch)).sum(), completions)
        else:
            loss = Ratio((loss_BT * mask).sum() / self.length, completions)
        metrics = {
            "clip_fraction": Ratio((cut_BT & mask).sum(), tokens),
            "entropy": Ratio((prediction.need("entropy_BT") * mask).sum(), tokens),
        }
        if batch.ref_logprobs_BT is not None:
            far_BT = k3(logprobs.detach(), batch.ref_logprobs_BT)
            metrics["kl_to_reference"] = Ratio((far_BT * mask).sum(), tokens)
        return loss, metrics
