"""Direct preference optimisation (arXiv 2305.18290), on rankings of K completions: a reward model without a head.

    s_k = beta * sum_t (log pi - log pi_ref)_t                      the reward that pi is the optimum of
    plackett_luce  - sum_i [ s_i - logsumexp_{j not ranked before i} s_j ]          (the paper's appendix; K = 2: sigmoid)
    sigmoid        mean over ranked pairs of -(1-e) log sigmoid(s_w - s_l) - e log sigmoid(s_l - s_w)
    ipo            mean over ranked pairs of (h_w - h_l - 1/(2 beta))²               (arXiv 2310.12036)

e is `label_smoothing`: the share of labels that are assumed to be wrong. For ipo, h is the *mean* log-ratio of a
completion's tokens (as its authors say and TRL does), not the sum, so the two losses need different values of beta. All
divide by the number of groups that rank something. `sft` adds the negative log-likelihood per token of the best
completions, because the log-probabilities of good and bad ones may fall together (metric `best_logprob`). Ties as in
`algorithms/kwise.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor
from torch.nn.functional import logsigmoid

from tropism.algorithms._ranked import Ranked, ranked
from tropism.errors import TropismError
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.index import by_group, length_N, sum_by_completion
from tropism.tensors.maths import plackett_luce
from tropism.tensors.ratio import Ratio

__all__ = ["DPO"]


@dataclass(frozen=True)
class DPO:
    beta: Annotated[float, Gt(0)] = 0.1  # reward units per nat
    likelihood: Literal["plackett_luce", "sigmoid", "ipo"] = "plackett_luce"
    label_smoothing: Annotated[float, Interval(ge=0, lt=0.5)] = 0.0
    sft: Annotated[float, Ge(0)] = 0.0

    needs: ClassVar[tuple[str, ...]] = ("rank_N", "ref_logprobs_BT")
    predicts: ClassVar[tuple[str, ...]] = ("logprobs_BT",)

    def __post_init__(self) -> None:
        if self.label_smoothing and self.likelihood != "sigmoid":
            raise TropismError('dpo.label_smoothing works on pairs: set likelihood = "sigmoid" with it')

    def credit(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        logprobs_BT = prediction.need("logprobs_BT")
        ratio_N = sum_by_completion(logprobs_BT - batch.need("ref_logprobs_BT"), batch)
        score_N = ratio_N / length_N(batch).clamp(min=1) if self.likelihood == "ipo" else self.beta * ratio_N
        score_GK, _ = by_group(score_N, batch.group_N)
        field = ranked(batch.need("rank_N"), logprobs_BT, batch)
        loss_G = self._likelihood(score_GK, field) - self.sft * field.best_logprob_G()
        return field.mean(loss_G, score_GK)

    def _likelihood(self, score_GK: Tensor, field: Ranked) -> Tensor:
        """(G,) the loss of each group; 0 for a group that ranks nothing."""
        if self.likelihood == "plackett_luce":
            return plackett_luce(score_GK, field.rank_GK, field.mask_GK)
        margin_GKK, pair_GKK = score_GK[:, :, None] - score_GK[:, None, :], field.pair_GKK
        if self.likelihood == "ipo":
            loss_GKK = (margin_GKK - 1 / (2 * self.beta)) ** 2
        else:
            e = self.label_smoothing
            loss_GKK = -(1 - e) * logsigmoid(margin_GKK) - e * logsigmoid(-margin_GKK)
        return torch.where(pair_GKK, loss_GKK, 0.0).sum((1, 2)) / pair_GKK.sum((1, 2)).clamp(min=1)
