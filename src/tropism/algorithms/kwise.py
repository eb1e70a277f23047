"""K-wise reward modelling: the order of the K completions of one prompt is the training signal.

    plackett_luce  - sum_i [ s_i - logsumexp_{j not ranked before i} s_j ]   (Starling; theory: arXiv 2301.11270)
    all_pairs      - mean over ranked pairs of log sigmoid(s_w - s_l)        (InstructGPT, arXiv 2203.02155)
    top_1          - [ s_best - logsumexp_{all} s ]                          (only the best of K is known)

All divide by the number of groups that rank something, so each prompt has the same weight. Ties share a rank: with
Plackett-Luce they are in each other's denominator (Breslow), with all_pairs they make no pair. A constant may be added
to all scores of a prompt without changing the likelihood; `centre` pulls each group's mean to 0, so that 0 means "as
good as the sampled policy's answers".

`margin` (all_pairs only) wants a larger difference of scores where the judge sees a larger difference (Llama 2, arXiv
2307.09288): - log sigmoid(s_w - s_l - margin (y_w - y_l)). y is the score of an interval judge, or minus the rank of an
ordinal one; the reward stage stores it in `reward_N`. With a margin, differences of scores are no longer the log-odds
of a preference, so calibration shows the model as overconfident.

`running` mixes in the same likelihood after 1, 2 … tokens, averaged; a shorter completion keeps its last score (the
K-wise form of DeepSpeed-Chat's loss for pairs, which begins at the first token that differs). As long as two answers
are equal, their scores are equal and nothing is learned; from the first different token on, the scores have to differ,
so that a small model finds a single wrong digit. The final score is still the score at the last token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from tropism.errors import TropismError
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.index import by_group, running
from tropism.tensors.maths import bradley_terry, pairs, plackett_luce, top_1
from tropism.tensors.ratio import Ratio

__all__ = ["KWise"]


@dataclass(frozen=True)
class KWise:
    likelihood: Literal["plackett_luce", "all_pairs", "top_1"] = "plackett_luce"
    unranked: Literal["out", "below"] = "out"  # a completion without a rank: left out, or worse than all ranked ones
    margin: Annotated[float, Ge(0)] = 0.0  # log-odds per unit of the judge's score, or per rank
    running: Annotated[float, Interval(ge=0, le=1)] = 0.0  # share of the loss from scores before the last token
    centre: Annotated[float, Ge(0)] = 0.01

    needs: ClassVar[tuple[str, ...]] = ("rank_N",)
    predicts: ClassVar[tuple[str, ...]] = ("scores_N", "scores_BT")

    def __post_init__(self) -> None:
        if self.margin and self.likelihood != "all_pairs":
            raise TropismError(f'margin = {self.margin} works on pairs: set likelihood = "all_pairs", or leave it out')
        if self.margin and self.unranked == "below":
            raise TropismError(f'margin = {self.margin} needs a score for each completion: set unranked = "out"')

    def credit(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        scores_GK, mask_GK = by_group(prediction.need("scores_N"), batch.group_N)
        rank_GK, _ = by_group(batch.need("rank_N"), batch.group_N)
        ahead_GK = self._ahead(batch)
        loss_G = self._likelihood(scores_GK - ahead_GK, rank_GK, mask_GK)
        if self.running:
            along_G = self._along(batch, prediction, ahead_GK, rank_GK, mask_GK)
            loss_G = (1 - self.running) * loss_G + self.running * along_G
        speaks_G = (rank_GK > 0).any(1)
        centre_G = (scores_GK * mask_GK).sum(1) / mask_GK.sum(1)
        total = torch.where(speaks_G, loss_G + self.centre * centre_G**2, 0.0).sum()
        pair_GKK = pairs(rank_GK, mask_GK)
        right = (scores_GK[:, :, None] > scores_GK[:, None, :]) & pair_GKK
        return Ratio(total, speaks_G.sum()), {"pair_accuracy": Ratio(right.sum(), pair_GKK.sum())}

    def _ahead(self, batch: Batch) -> Tensor | float:
        """(G, K): the margin of a pair is the difference of its two values here."""
        return self.margin * by_group(batch.need("reward_N"), batch.group_N)[0] if self.margin else 0.0

    def _likelihood(self, scores_GK: Tensor, rank_GK: Tensor, mask_GK: Tensor) -> Tensor:
        below = self.unranked == "below"
        if self.likelihood == "all_pairs":
            last = torch.iinfo(rank_GK.dtype).max  # all unranked ones share this rank, so they make no pairs
            return bradley_terry(scores_GK, rank_GK.masked_fill(rank_GK == 0, last) if below else rank_GK, mask_GK)
        likelihood = plackett_luce if self.likelihood == "plackett_luce" else top_1
        return likelihood(scores_GK, rank_GK, mask_GK, below)

    def _along(
        self, batch: Batch, prediction: Prediction, ahead_GK: Tensor | float, rank_GK: Tensor, mask_GK: Tensor
    ) -> Tensor:
        """(G,): the mean over t of the likelihood after t tokens, for t up to the group's longest completion."""
        scores_LN, length_N = running(prediction.need("scores_BT"), batch)
        index_GK, _ = by_group(torch.arange(batch.n, device=length_N.device), batch.group_N)
        scores_LGK, steps = scores_LN[:, index_GK] - ahead_GK, len(scores_LN)
        loss_LG = self._likelihood(scores_LGK.flatten(0, 1), rank_GK.repeat(steps, 1), mask_GK.repeat(steps, 1))
        loss_LG = loss_LG.view(steps, -1)
        counts_G = (length_N[index_GK] * mask_GK).amax(1).clamp(min=1)
        goes_on_LG = torch.arange(steps, device=counts_G.device)[:, None] < counts_G
        return torch.where(goes_on_LG, loss_LG, 0.0).sum(0) / counts_G
