"""K-wise reward modelling: the order of the K completions of one prompt is the training signal.

    plackett_luce  - sum_i [ s_i - logsumexp_{j not ranked before i} s_j ]   (Starling; theory: arXiv 2301.11270)
    all_pairs      - mean over ranked pairs of log sigmoid(s_w - s_l)        (InstructGPT, arXiv 2203.02155)

Both divide by the number of groups that rank anything: one prompt, one vote. Ties share a rank: under Plackett-Luce they
stay in each other's denominator (Breslow), under all_pairs they make no pair. Scores are free up to a constant per
prompt; `centre` pulls each group's mean to 0, which neither loss feels, so that 0 means "as the sampled policy answers".

`running` mixes in the same likelihood after 1, 2 … tokens, averaged, a shorter completion standing by its last score (the
K-wise form of what DeepSpeed-Chat does with pairs, from the first token in which they differ to the end). Where two
answers have read alike they score alike and nothing is learned; at the token that parts them the difference is asked for
at once, so that a small model finds a single wrong digit. The score that counts is still that of the last token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tropism.tensors.batch import Batch, Prediction, Ratio, by_group, running
from tropism.tensors.maths import bradley_terry, pairs, plackett_luce

__all__ = ["KWise"]


@dataclass(frozen=True)
class KWise:
    likelihood: Literal["plackett_luce", "all_pairs"] = "plackett_luce"
    unranked: Literal["out", "below"] = "out"  # a completion without a rank: says nothing, or is worse than all ranked
    running: float = 0.0  # share of the loss that is taken along the way
    centre: float = 0.01

    needs: ClassVar[tuple[str, ...]] = ("rank_N",)
    predicts: ClassVar[tuple[str, ...]] = ("scores_N", "scores_BT")

    def credit(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        scores_GK, mask_GK = by_group(prediction.need("scores_N"), batch.group_N)
        rank_GK, _ = by_group(batch.need("rank_N"), batch.group_N)
        loss_G = self._likelihood(scores_GK, rank_GK, mask_GK)
        if self.running:
            loss_G = (1 - self.running) * loss_G + self.running * self._along(batch, prediction, rank_GK, mask_GK)
        speaks_G = (rank_GK > 0).any(1)
        centre_G = (scores_GK * mask_GK).sum(1) / mask_GK.sum(1)
        total = torch.where(speaks_G, loss_G + self.centre * centre_G**2, 0.0).sum()
        pair_GKK = pairs(rank_GK, mask_GK)
        right = (scores_GK[:, :, None] > scores_GK[:, None, :]) & pair_GKK
        return Ratio(total, speaks_G.sum()), {"pair_accuracy": Ratio(right.sum(), pair_GKK.sum())}

    def _likelihood(self, scores_GK: Tensor, rank_GK: Tensor, mask_GK: Tensor) -> Tensor:
        if self.likelihood == "plackett_luce":
            return plackett_luce(scores_GK, rank_GK, mask_GK, self.unranked == "below")
        return bradley_terry(scores_GK, rank_GK, mask_GK)

    def _along(self, batch: Batch, prediction: Prediction, rank_GK: Tensor, mask_GK: Tensor) -> Tensor:
        """(G,): the mean over t of the likelihood after t tokens, t up to the group's longest completion."""
        scores_LN, length_N = running(prediction.need("scores_BT"), batch)
        index_GK, _ = by_group(torch.arange(batch.n, device=length_N.device), batch.group_N)
        scores_LGK, steps = scores_LN[:, index_GK], len(scores_LN)
        loss_LG = self._likelihood(scores_LGK.flatten(0, 1), rank_GK.repeat(steps, 1), mask_GK.repeat(steps, 1))
        loss_LG = loss_LG.view(steps, -1)
        counts_G = (length_N[index_GK] * mask_GK).amax(1).clamp(min=1)
        goes_on_LG = torch.arange(steps, device=counts_G.device)[:, None] < counts_G
        return torch.where(goes_on_LG, loss_LG, 0.0).sum(0) / counts_G
