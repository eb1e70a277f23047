"""K-wise reward modelling: the order of the K completions of one prompt is the training signal.

    plackett_luce  - sum_i [ s_i - logsumexp_{j not ranked before i} s_j ]   (Starling; theory: arXiv 2301.11270)
    all_pairs      - mean over ranked pairs of log sigmoid(s_w - s_l)        (InstructGPT, arXiv 2203.02155)

Both divide by the number of groups that rank anything: one prompt, one vote. Ties share a rank: under Plackett-Luce they
stay in each other's denominator (Breslow), under all_pairs they make no pair. Scores are free up to a constant per
prompt; `centre` pulls each group's mean to 0, which neither loss feels, so that 0 means "as the sampled policy answers".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from tropism.tensors.batch import Batch, Prediction, Ratio, by_group
from tropism.tensors.maths import bradley_terry, pairs, plackett_luce

__all__ = ["KWise"]


@dataclass(frozen=True)
class KWise:
    likelihood: Literal["plackett_luce", "all_pairs"] = "plackett_luce"
    unranked: Literal["out", "below"] = "out"  # a completion without a rank: says nothing, or is worse than all ranked
    centre: float = 0.01

    needs: ClassVar[tuple[str, ...]] = ("rank_N",)
    predicts: ClassVar[tuple[str, ...]] = ("scores_N",)

    def credit(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        scores_GK, mask_GK = by_group(prediction.need("scores_N"), batch.group_N)
        rank_GK, _ = by_group(batch.need("rank_N"), batch.group_N)
        if self.likelihood == "plackett_luce":
            loss_G = plackett_luce(scores_GK, rank_GK, mask_GK, self.unranked == "below")
        else:
            loss_G = bradley_terry(scores_GK, rank_GK, mask_GK)
        speaks_G = (rank_GK > 0).any(1)
        centre_G = (scores_GK * mask_GK).sum(1) / mask_GK.sum(1)
        total = torch.where(speaks_G, loss_G + self.centre * centre_G**2, 0.0).sum()
        pair_GKK = pairs(rank_GK, mask_GK)
        right = (scores_GK[:, :, None] > scores_GK[:, None, :]) & pair_GKK
        return Ratio(total, speaks_G.sum()), {"pair_accuracy": Ratio(right.sum(), pair_GKK.sum())}
