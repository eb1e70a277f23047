"""The batch is a forest of tokens: in each group the prompt stands once, followed by its K completions.

Axes: B rows, T tokens of a row, N completions of the batch, G groups, K completions of a group. A tensor's name ends in
its axes. Every token attends only to its ancestors and its position is its depth, so the prompt of K completions is
computed once. `parent_BT` is the column whose hidden state predicts the token.

Rules: column t has the values of token t (its id, its log-probability, the value of the state in which it was chosen,
its advantage). True means keep, in every mask. Missing is None; `need` then raises an error that says what should have
set it. Totals and counts stay together as a `Ratio`: never average averages.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tropism.errors import TropismError

Layout = Literal["auto", "shared", "padded"]  # of a batch: completions share a row, or each has its own


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows of whole groups (see the top of this file). Optional fields are None until something sets them."""

    tokens_BT: Tensor  # token ids; 0 for padding
    position_BT: Tensor  # depth in the tree; each padding token is a tree of its own
    parent_BT: Tensor  # column that predicts this token; -1 = none does
    completion_BT: Tensor  # index into N; -1 = prompt or padding
    loss_mask_BT: Tensor  # True = chosen by the policy and trained on
    group_N: Tensor  # index into G
    last_N: Tensor  # flat index (row * T + column) of each completion's last token
    ended_N: Tensor  # True = ended with a stop token, False = cut at the length limit
    ids: tuple[str, ...]  # G group ids, for messages
    shared: bool = True  # False = one completion in each row
    scored_N: Tensor | None = None  # True = reward_N has a reward
    reward_N: Tensor | None = None  # judge's units
    step_BT: Tensor | None = None  # True = a step of an answer ends here; steps with the same last token count as one
    step_reward_BT: Tensor | None = None  # judge's units, 0 where no step ends
    rank_N: Tensor | None = None  # 1 best, ties share, 0 unranked
    old_logprobs_BT: Tensor | None = None  # nats, under the policy that sampled
    ref_logprobs_BT: Tensor | None = None  # nats, under the reference
    values_BT: Tensor | None = None  # of the critic before the update, reward units
    baseline_N: Tensor | None = None  # subtracted from the reward; from the tree, or set by credit
    advantages_BT: Tensor | None = None  # reward units; written only by credit
    returns_BT: Tensor | None = None  # reward units; written only by credit

    def replace(self, **fields: Any) -> Batch:
        return dataclasses.replace(self, **fields)

    def need(self, name: str) -> Tensor:
        """The optional field `name`. Raises TropismError, with what should have set it, if it is None."""
        value = getattr(self, name)
        if value is None:
            raise TropismError(f"batch.{name} is missing: {_FILLED_BY.get(name, 'collate')} sets it")
        return value

    @property
    def n(self) -> int:
        return len(self.group_N)

    @property
    def layout(self) -> Layout:
        return "shared" if self.shared else "padded"

    def to(self, device: torch.device | str) -> Batch:
        moved = {
            f.name: value.to(device)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return self.replace(**moved)


_FILLED_BY = {
    "reward_N": "the judge of the rl stage",
    "scored_N": "the judge of the rl stage",
    "rank_N": "the label stage",
    "old_logprobs_BT": "the engine, while sampling,",
    "ref_logprobs_BT": "the loop, for an algorithm whose `needs` names it,",
    "values_BT": "the loop, for an algorithm whose `needs` names it,",
    "baseline_N": "the algorithm's `credit`",
    "advantages_BT": "the algorithm's `credit`",
    "returns_BT": "the algorithm's `credit`",
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predictions of the models for a batch. Columns without a trained token are 0."""

    logprobs_BT: Tensor | None = None  # nats
    entropy_BT: Tensor | None = None  # nats, without gradient
    values_BT: Tensor | None = None  # reward units
    scores_N: Tensor | None = None  # reward model's units, at each completion's last token
    scores_BT: Tensor | None = None  # reward model's units, for the text up to and including this token
    entropy_bonus_BT: Tensor | None = None  # the entropy with gradient, for an algorithm that rewards it
    divergence_BT: Tensor | None = None  # nats, between the policy's and the teacher's next-token distributions

    def need(self, name: str) -> Tensor:
        value = getattr(self, name)
        if value is None:
            raise TropismError(f"prediction.{name} is missing: name it in the algorithm's `predicts`")
        return value
