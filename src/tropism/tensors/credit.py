"""Turns the score of a completion into credit for its tokens, or into a rank: shared by all algorithms with rewards.

Axes as in `tensors/batch.py`. A completion without a score is in no baseline and not in the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tropism.tensors.batch import Batch
from tropism.tensors.index import by_completion, by_group, sum_by_completion
from tropism.tensors.maths import gae, k1


def scored_only(batch: Batch) -> Batch:
    """The batch without the tokens of completions that have no score."""
    scored_N = batch.need("scored_N")
    return batch.replace(loss_mask_BT=batch.loss_mask_BT & scored_N[batch.completion_BT.clamp(min=0)])


def without_credit(batch: Batch) -> Tensor:
    """(N,), True = the advantage of every trained token of the completion is exactly 0."""
    return sum_by_completion(batch.need("advantages_BT").abs(), batch) == 0


def spread(x_N: Tensor, batch: Batch) -> Tensor:
    """(B, T): each trained token gets the value of its completion, every other column 0."""
    return torch.where(batch.loss_mask_BT, x_N[batch.completion_BT.clamp(min=0)], 0.0)


def kl_N(batch: Batch) -> Tensor:
    """(N,) nats: log(pi_old / pi_ref) of each completion; its mean over samples of pi_old is the KL divergence."""
    return sum_by_completion(k1(batch.need("old_logprobs_BT"), batch.need("ref_logprobs_BT")), batch)


def group_mean(x_N: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(N,) mean over the scored completions of each completion's group, and (N,) their number.

    Summed in double precision, so that the mean of equal numbers is exactly that number.
    """
    scored_N = batch.need("scored_N")
    groups = int(batch.group_N.max()) + 1
    count_G = torch.bincount(batch.group_N[scored_N], minlength=groups)
    zero_G = torch.zeros(groups, dtype=torch.float64, device=x_N.device)
    total_G = zero_G.index_add(0, batch.group_N[scored_N], x_N[scored_N].double())
    return (total_G / count_G.clamp(min=1)).to(x_N.dtype)[batch.group_N], count_G[batch.group_N]


def expected_N(batch: Batch) -> Tensor:
    """(N,) the mean reward of all samples of the prompt: `baseline_N` if the batch has only some of them, otherwise the
    mean of the group's scored completions."""
    return group_mean(total_N(batch), batch)[0] if batch.baseline_N is None else batch.baseline_N


def group_differs(x_N: Tensor, batch: Batch) -> Tensor:
    """(G,), True = the scored completions of the group do not all have the same x."""
    scored_N = batch.need("scored_N")
    zero_G = x_N.new_zeros(int(batch.group_N.max()) + 1)
    low_G, high_G = (
        zero_G.scatter_reduce(0, batch.group_N[scored_N], x_N[scored_N], end, include_self=False)
        for end in ("amin", "amax")
    )
    return low_G < high_G


def ranked(batch: Batch) -> Batch:
    """The batch with ranks by reward: 1 is the best of its group, equal rewards share a rank, no score is 0
    (unranked)."""
    reward_GK, mask_GK = by_group(total_N(batch), batch.group_N)
    scored_GK, _ = by_group(batch.need("scored_N"), batch.group_N)
    equal_GKK = (reward_GK[:, :, None] == reward_GK[:, None, :]) & scored_GK[:, None, :]
    first_GK = scored_GK & ~equal_GKK.tril(-1).any(2)  # one completion for each distinct reward
    above_GKK = (reward_GK[:, None, :] > reward_GK[:, :, None]) & first_GK[:, None, :]
    return batch.replace(rank_N=((1 + above_GKK.sum(2)) * scored_GK)[mask_GK])


def by_critic(batch: Batch, kl: float, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """(B, T) advantages and returns by generalised advantage estimation with the critic's values.

    r_t = -kl * k1_t, plus the rewards of steps at their tokens and the completion's score at its last trained token. 0
    for tokens that are not trained.
    """
    index_NL, mask_NL = by_completion(batch)

    def rows(x_BT: Tensor) -> Tensor:
        return x_BT.flatten()[index_NL]

    last_NL = mask_NL & (mask_NL.cumsum(1) == mask_NL.sum(1, keepdim=True))
    reward_NL = last_NL * batch.need("reward_N")[:, None]
    if batch.step_reward_BT is not None:
        reward_NL = reward_NL + rows(batch.step_reward_BT)
    if kl:
        reward_NL = reward_NL - kl * rows(k1(batch.need("old_logprobs_BT"), batch.need("ref_logprobs_BT")))
    advantages_NL, returns_NL = gae(reward_NL, rows(batch.need("values_BT")), mask_NL, gamma, lam)

    return _columns(advantages_NL, index_NL, mask_NL, batch), _columns(returns_NL, index_NL, mask_NL, batch)


def steps_ahead(batch: Batch, std: bool = False) -> Tensor:
    """(B, T): the sum of the rewards of all steps that end at this token or later, where the mean reward of all steps
    of the group is subtracted from each (DeepSeekMath, arXiv 2402.03300, 4.1.3). With `std` each is divided by the
    standard deviation. 0 without steps."""
    if batch.step_BT is None or batch.step_reward_BT is None:
        return torch.zeros(batch.tokens_BT.shape, device=batch.tokens_BT.device)
    at_BT = batch.step_BT & batch.loss_mask_BT
    group_M, reward_M = batch.group_N[batch.completion_BT[at_BT]], batch.step_reward_BT[at_BT]
    zero_G = torch.zeros(len(batch.ids), dtype=torch.float64, device=reward_M.device)
    count_G = torch.bincount(group_M, minlength=len(batch.ids))
    mean_G = zero_G.index_add(0, group_M, reward_M.double()) / count_G.clamp(min=1)
    apart_M = reward_M - mean_G.to(reward_M.dtype)[group_M]  # exactly 0 for equal rewards
    if std:
        square_G = zero_G.index_add(0, group_M, apart_M.double() ** 2) / (count_G - 1).clamp(min=1)
        apart_M = apart_M / (square_G.sqrt() + 1e-4).to(reward_M.dtype)[group_M]
    apart_BT = torch.zeros_like(batch.step_reward_BT).masked_scatter(at_BT, apart_M)
    index_NL, mask_NL = by_completion(batch)
    to_go_NL = (apart_BT.flatten()[index_NL] * mask_NL).flip(1).cumsum(1).flip(1)
    return _columns(to_go_NL, index_NL, mask_NL, batch)


def total_N(batch: Batch) -> Tensor:
    """(N,): a completion's score plus the rewards of its steps, for algorithms that treat it as one action."""
    steps = batch.step_reward_BT
    return batch.need("reward_N") if steps is None else batch.need("reward_N") + sum_by_completion(steps, batch)


def _columns(x_NL: Tensor, index_NL: Tensor, mask_NL: Tensor, batch: Batch) -> Tensor:
    """(B, T) from the values of each completion's trained tokens; 0 elsewhere."""
    flat = torch.zeros(batch.tokens_BT.numel(), dtype=x_NL.dtype, device=x_NL.device)
    flat[index_NL[mask_NL]] = x_NL[mask_NL]
    return flat.view_as(batch.tokens_BT)
