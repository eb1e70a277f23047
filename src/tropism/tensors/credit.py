"""From one score a completion to credit for its tokens, and to its rank: what the algorithms with rewards share.

Axes as in `tensors/batch.py`. A completion without a score is out of every baseline and out of the loss.
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


def spread(x_N: Tensor, batch: Batch) -> Tensor:
    """(B, T): each trained token holds its completion's number, every other column 0."""
    return torch.where(batch.loss_mask_BT, x_N[batch.completion_BT.clamp(min=0)], 0.0)


def kl_N(batch: Batch) -> Tensor:
    """(N,) nats: log(pi_old / pi_ref) of each completion, exact and without bias under samples of pi_old."""
    return sum_by_completion(k1(batch.need("old_logprobs_BT"), batch.need("ref_logprobs_BT")), batch)


def group_mean(x_N: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(N,) mean over the scored completions of each completion's group, and (N,) how many those are.

    Summed in double precision, so that the mean of equal numbers is that number.
    """
    scored_N = batch.need("scored_N")
    groups = int(batch.group_N.max()) + 1
    count_G = torch.bincount(batch.group_N[scored_N], minlength=groups)
    zero_G = torch.zeros(groups, dtype=torch.float64, device=x_N.device)
    total_G = zero_G.index_add(0, batch.group_N[scored_N], x_N[scored_N].double())
    return (total_G / count_G.clamp(min=1)).to(x_N.dtype)[batch.group_N], count_G[batch.group_N]


def expected_N(batch: Batch) -> Tensor:
    """(N,) the mean reward of all samples of the prompt: `baseline_N` where the batch holds only some of them, else that
    of the group's scored completions."""
    return group_mean(batch.need("reward_N"), batch)[0] if batch.baseline_N is None else batch.baseline_N


def group_differs(x_N: Tensor, batch: Batch) -> Tensor:
    """(G,), True where the scored completions of the group do not all have the same x."""
    scored_N = batch.need("scored_N")
    zero_G = x_N.new_zeros(int(batch.group_N.max()) + 1)
    low_G, high_G = (
        zero_G.scatter_reduce(0, batch.group_N[scored_N], x_N[scored_N], end, include_self=False)
        for end in ("amin", "amax")
    )
    return low_G < high_G


def ranked(batch: Batch) -> Batch:
    """The batch with ranks by reward: 1 is the best of its group, equal rewards share a rank, no score is 0 (unranked)."""
    reward_GK, mask_GK = by_group(batch.need("reward_N"), batch.group_N)
    scored_GK, _ = by_group(batch.need("scored_N"), batch.group_N)
    equal_GKK = (reward_GK[:, :, None] == reward_GK[:, None, :]) & scored_GK[:, None, :]
    first_GK = scored_GK & ~equal_GKK.tril(-1).any(2)  # one completion for each reward there is
    above_GKK = (reward_GK[:, None, :] > reward_GK[:, :, None]) & first_GK[:, None, :]
    return batch.replace(rank_N=((1 + above_GKK.sum(2)) * scored_GK)[mask_GK])


def by_critic(batch: Batch, kl: float, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """(B, T) advantages and returns by generalised advantage estimation on the critic's values.

    r_t = -kl * k1_t, plus the completion's score at its last trained token. 0 where nothing is trained.
    """
    index_NL, mask_NL = by_completion(batch)

    def rows(x_BT: Tensor) -> Tensor:
        return x_BT.flatten()[index_NL]

    last_NL = mask_NL & (mask_NL.cumsum(1) == mask_NL.sum(1, keepdim=True))
    reward_NL = last_NL * batch.need("reward_N")[:, None]
    if kl:
        reward_NL = reward_NL - kl * rows(k1(batch.need("old_logprobs_BT"), batch.need("ref_logprobs_BT")))
    advantages_NL, returns_NL = gae(reward_NL, rows(batch.need("values_BT")), mask_NL, gamma, lam)

    def columns(x_NL: Tensor) -> Tensor:
        flat = torch.zeros(batch.tokens_BT.numel(), dtype=x_NL.dtype, device=x_NL.device)
        flat[index_NL[mask_NL]] = x_NL[mask_NL]
        return flat.view_as(batch.tokens_BT)

    return columns(advantages_NL), columns(returns_NL)
