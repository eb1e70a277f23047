"""Shared by the losses on rankings of K completions: the ranks, log-probabilities and pairs of each group, and their
metrics.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tropism.tensors.batch import Batch
from tropism.tensors.index import by_group, length_N, sum_by_completion
from tropism.tensors.maths import pairs
from tropism.tensors.ratio import Ratio


@dataclass(frozen=True)
class Ranked:
    rank_GK: Tensor  # 1 best, ties share, 0 unranked
    mask_GK: Tensor
    logprob_GK: Tensor  # mean of a completion's trained tokens, nats; 0 where it has none
    pair_GKK: Tensor  # True = the first is ranked above the second
    best_GK: Tensor
    speaks_G: Tensor  # True = the group ranks something

    def best_logprob_G(self) -> Tensor:
        """(G,): the mean over the best completions; 0 if there are none."""
        return (self.logprob_GK * self.best_GK).sum(1) / self.best_GK.sum(1).clamp(min=1)

    def mean(self, loss_G: Tensor, score_GK: Tensor) -> tuple[Ratio, dict[str, Ratio]]:
        """The loss over the groups that rank something, and metrics of the scores in it."""
        return Ratio(torch.where(self.speaks_G, loss_G, 0.0).sum(), self.speaks_G.sum()), self._metrics(score_GK)

    def _metrics(self, score_GK: Tensor) -> dict[str, Ratio]:
        margin_GKK = score_GK[:, :, None] - score_GK[:, None, :]
        return {
            "pair_accuracy": Ratio(((margin_GKK > 0) & self.pair_GKK).sum(), self.pair_GKK.sum()),
            "margin": Ratio((margin_GKK * self.pair_GKK).sum().detach(), self.pair_GKK.sum()),
            "best_logprob": Ratio((self.logprob_GK * self.best_GK).sum().detach(), self.best_GK.sum()),
        }


def ranked(rank_N: Tensor, logprobs_BT: Tensor, batch: Batch) -> Ranked:
    rank_GK, mask_GK = by_group(rank_N, batch.group_N)
    logprob_N = sum_by_completion(logprobs_BT, batch) / length_N(batch).clamp(min=1)
    logprob_GK, _ = by_group(logprob_N, batch.group_N)
    best_GK = (rank_GK == 1) & mask_GK
    return Ranked(rank_GK, mask_GK, logprob_GK, pairs(rank_GK, mask_GK), best_GK, (rank_GK > 0).any(1))


def without_empty(batch: Batch) -> Tensor:
    """(N,) the ranks, with 0 for a completion without a trained token, which has no mean log-probability."""
    return batch.need("rank_N").masked_fill(length_N(batch) == 0, 0)
