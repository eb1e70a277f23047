"""Pure functions of tensors. Axes: N completions, L trained tokens of a completion, G groups, K of a group, V
vocabulary.

Masks are True = keep. Log-probabilities and KL are in nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEVER = -1e30  # a finite logit whose probability is 0


def shaped(logits_V: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """(..., V) logits of the distribution that is sampled from: temperature, then top-k, then top-p.

    Excluded tokens get -inf. The engine and the trainer both use this function, so their log-probabilities agree.
    `temperature` must be above 0: greedy sampling has no useful log-probabilities.
    """
    if temperature != 1.0:
        logits_V = logits_V / temperature
    if 0 < top_k < logits_V.shape[-1]:
        floor = logits_V.topk(top_k, dim=-1).values[..., -1:]
        logits_V = logits_V.masked_fill(logits_V < floor, float("-inf"))
    if top_p < 1.0:
        ordered, order = logits_V.sort(dim=-1, descending=True)
        probability = ordered.softmax(-1)
        drop = probability.cumsum(-1) - probability >= top_p  # the token that reaches top_p stays
        logits_V = logits_V.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), float("-inf"))
    return logits_V


def chosen_logprobs(
    logits_MV: Tensor, tokens_M: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(M,) log-probabilities of `tokens_M` under `shaped` logits, and those (M, V) logits, for `entropy`.

    A token that top-k or top-p would now exclude is still included, so that its log-probability is finite.
    """
    kept_MV = shaped(logits_MV, temperature, top_k, top_p)
    if top_k or top_p < 1.0:
        itself = torch.zeros_like(kept_MV, dtype=torch.bool).scatter_(-1, tokens_M[:, None], True)
        kept_MV = torch.where(itself, logits_MV / temperature, kept_MV)
    return -torch.nn.functional.cross_entropy(kept_MV, tokens_M, reduction="none"), kept_MV


def entropy(logits_MV: Tensor) -> Tensor:
    """(M,) entropies in nats; a logit of -inf is outside the support."""
    logp_MV = logits_MV.log_softmax(-1)
    return -(logp_MV.exp() * logp_MV.masked_fill(logp_MV == float("-inf"), 0.0)).sum(-1)


def jensen_shannon(policy_MV: Tensor, teacher_MV: Tensor, beta: float) -> Tensor:
    """(M,) generalised Jensen-Shannon divergences of two distributions, given as logits (arXiv 2306.13649).

    beta * KL(teacher, mix) + (1 - beta) * KL(policy, mix), with mix = beta * teacher + (1 - beta) * policy. At beta = 0
    and 1 this formula is always 0, so its limit after division by beta or 1 - beta is used: KL(teacher, policy) at 0,
    KL(policy, teacher) at 1. A logit of -inf is outside the support: of the teacher, or of both.
    """
    policy_MV, teacher_MV = (x.clamp(min=NEVER).log_softmax(-1) for x in (policy_MV, teacher_MV))
    if beta == 0:
        return _kl(teacher_MV, policy_MV)
    if beta == 1:
        return _kl(policy_MV, teacher_MV)
    mix_MV = torch.logaddexp(teacher_MV + math.log(beta), policy_MV + math.log1p(-beta))
    return beta * _kl(teacher_MV, mix_MV) + (1 - beta) * _kl(policy_MV, mix_MV)


def _kl(p_MV: Tensor, q_MV: Tensor) -> Tensor:
    """(M,) KL(p, q) of finite log-probabilities."""
    return (p_MV.exp() * (p_MV - q_MV)).sum(-1)


def gae(reward_NL: Tensor, values_NL: Tensor, mask_NL: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438): (N, L) advantages and returns = advantages + values.

    The last kept token is terminal. Rows have only tokens that the policy chose, so given tokens between them cause no
    decay.
    """
    mask = mask_NL.to(values_NL.dtype)
    values_NL, reward_NL = values_NL * mask, reward_NL * mask
    advantage_NL = torch.zeros_like(values_NL)
    running = values_NL.new_zeros(len(values_NL))
    for t in range(values_NL.shape[1] - 1, -1, -1):
        ahead = values_NL[:, t + 1] if t + 1 < values_NL.shape[1] else torch.zeros_like(running)
        running = (reward_NL[:, t] + gamma * ahead - values_NL[:, t] + gamma * lam * running) * mask[:, t]
        advantage_NL[:, t] = running
    return advantage_NL, (advantage_NL + values_NL) * mask


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over the kept entries of the whole batch; 0 elsewhere."""
    kept = x[mask]
    if kept.numel() < 2:
        return torch.zeros_like(x)
    return torch.where(mask, (x - kept.mean()) / (kept.std(correction=0) + 1e-8), 0.0)


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log(pi/ref): an unbiased estimate of the KL under samples of pi; its sum is the log-ratio of the completion."""
    return logprobs - ref_logprobs


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """ref/pi - 1 - log(ref/pi): unbiased, never negative, low variance. For metrics; do not use its gradient."""
    log_ratio = (ref_logprobs - logprobs).clamp(-20, 20)
    return log_ratio.exp() - 1 - log_ratio


def clipped(
    log_ratio: Tensor, advantage: Tensor, low: float, high: float, dual: float | None = None
) -> tuple[Tensor, Tensor]:
    """PPO's loss max(-A rho, -A clip(rho, 1 - low, 1 + high)) (arXiv 1707.06347), and where it has no gradient.

    rho = exp(log_ratio), of tokens or of completions. For A < 0 that loss grows with rho without bound; `dual` limits
    it to dual * |A| (arXiv 1912.09729).
    """
    ratio = log_ratio.clamp(-20, 20).exp()
    plain, held = -advantage * ratio, -advantage * ratio.clamp(1 - low, 1 + high)
    loss, cut = torch.maximum(plain, held), held > plain
    if dual is None:
        return loss, cut
    bound = -dual * advantage
    return torch.where(advantage < 0, torch.minimum(loss, bound), loss), cut | ((advantage < 0) & (plain > bound))


def cispo(log_ratio: Tensor, logprobs: Tensor, advantage: Tensor, high: float) -> tuple[Tensor, Tensor]:
    """CISPO's loss -A min(rho, 1 + high) log pi, rho without gradient (arXiv 2506.13585), and where rho is bounded.

    The bound limits the weight of a token; it never sets the token's gradient to 0.
    """
    ratio = log_ratio.detach().clamp(-20, 20).exp()
    return -advantage * ratio.clamp(max=1 + high) * logprobs, ratio > 1 + high


def plackett_luce(
    scores_GK: Tensor, rank_GK: Tensor, mask_GK: Tensor, unranked_below: bool = False, margin: float = 0.0
) -> Tensor:
    """(G,) negative log-likelihood of the rankings under Plackett-Luce; 0 for a group that ranks nothing.

    -sum over ranked i of [ s_i - logsumexp over j in tail(i) of s_j ], tail(i) = {j : rank_j >= rank_i}: equal ranks
    are in each other's denominator (Breslow). Rank 0 is unranked: in no tail, or, with `unranked_below`, in every tail
    (for a ranking of only the best few). For K = 2 without ties it is -log sigmoid(s_w - s_l - margin): `margin` is
    added to the scores in the tail of i that are below i.
    """
    ranked_GK = (rank_GK > 0) & mask_GK
    below_GK = (rank_GK == 0) & mask_GK if unranked_below else torch.zeros_like(ranked_GK)
    tail_GKK = (ranked_GK[:, None, :] & (rank_GK[:, None, :] >= rank_GK[:, :, None])) | below_GK[:, None, :]
    use_GK = ranked_GK & (tail_GKK.sum(-1) > 1)  # an item alone in its tail has probability 1
    # an item that is not used has itself in its tail, so that no log-sum-exp is empty and every gradient is finite
    itself = torch.eye(rank_GK.shape[1], dtype=torch.bool, device=rank_GK.device)
    tail_GKK = torch.where(use_GK[:, :, None], tail_GKK, itself)
    rivals_GKK = scores_GK[:, None, :]
    if margin:
        rivals_GKK = rivals_GKK + margin * (rank_GK[:, None, :] != rank_GK[:, :, None])
    lse_GK = rivals_GKK.masked_fill(~tail_GKK, float("-inf")).logsumexp(-1)
    return torch.where(use_GK, lse_GK - scores_GK, 0.0).sum(-1)


def pairs(rank_GK: Tensor, mask_GK: Tensor) -> Tensor:
    """(G, K, K), True = the first completion is ranked strictly better than the second."""
    ranked = (rank_GK > 0) & mask_GK
    better = rank_GK[:, :, None] < rank_GK[:, None, :]
    return better & ranked[:, :, None] & ranked[:, None, :]


def bradley_terry(scores_GK: Tensor, rank_GK: Tensor, mask_GK: Tensor) -> Tensor:
    """(G,) mean of -log sigmoid(s_w - s_l) over the ranked pairs (InstructGPT, arXiv 2203.02155); 0 without a pair."""
    pair_GKK = pairs(rank_GK, mask_GK)
    loss = -torch.nn.functional.logsigmoid(scores_GK[:, :, None] - scores_GK[:, None, :])
    return torch.where(pair_GKK, loss, 0.0).sum((1, 2)) / pair_GKK.sum((1, 2)).clamp(min=1)


def top_1(scores_GK: Tensor, rank_GK: Tensor, mask_GK: Tensor, unranked_below: bool = False) -> Tensor:
    """(G,) -[ s_best - logsumexp over all of s ]: the first factor of Plackett-Luce, for when only the best is known.

    The best are all completions with the lowest rank number; if there are several, each is compared with all (Breslow).
    Rank 0 is unranked: not compared, or, with `unranked_below`, compared too.
    """
    ranked_GK = (rank_GK > 0) & mask_GK
    first_G = rank_GK.masked_fill(~ranked_GK, torch.iinfo(rank_GK.dtype).max).amin(1)
    best_GK = (ranked_GK & (rank_GK == first_G[:, None])).to(rank_GK.dtype)
    return plackett_luce(scores_GK, best_GK, mask_GK if unranked_below else ranked_GK, unranked_below=True)
