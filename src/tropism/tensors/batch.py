"""The batch is a forest of tokens: in each group the prompt stands once, followed by its K completions.

Axes: B rows, T tokens of a row, N completions of the batch, G groups, K completions of a group. A tensor's name ends in
its axes. Every token attends to its ancestors only and its position is its depth, so K completions of one prompt cost the
prompt once. `parent_BT` is the column whose hidden state predicts the token.

Rules the types carry: column t speaks about token t (its id, its log-probability, the value of the state it was chosen
in, its advantage). True means keep, in every mask. Missing is None, and asking for it names the stage to run first.
Totals and counts travel as `Ratio`: never average averages.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tropism.errors import TropismError

Layout = Literal["auto", "shared", "padded"]  # of a batch: completions that share a row, or a row each


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows of whole groups (see the head of this file). Optional fields are None until someone fills them."""

    tokens_BT: Tensor  # token ids; 0 where padding
    position_BT: Tensor  # depth in the tree; each padding token is a root of its own
    parent_BT: Tensor  # column that predicts this token; -1 = nothing does
    completion_BT: Tensor  # index into N; -1 = prompt or padding
    loss_mask_BT: Tensor  # True = chosen by the policy and trained on
    group_N: Tensor  # index into G
    last_N: Tensor  # flat index (row * T + column) of each completion's last token
    ended_N: Tensor  # True = stopped by itself, False = cut at the length limit
    ids: tuple[str, ...]  # G group ids, for messages
    shared: bool = True  # False = one completion a row
    scored_N: Tensor | None = None  # True = reward_N holds a reward
    reward_N: Tensor | None = None  # judge's units
    step_BT: Tensor | None = None  # True = a step of an answer ends here; steps that end at one token are one
    step_reward_BT: Tensor | None = None  # judge's units, 0 where no step ends
    rank_N: Tensor | None = None  # 1 best, ties share, 0 unranked
    old_logprobs_BT: Tensor | None = None  # nats, under the policy that sampled
    ref_logprobs_BT: Tensor | None = None  # nats, under the reference
    values_BT: Tensor | None = None  # the critic before the update, reward units
    baseline_N: Tensor | None = None  # what a completion is measured against; from the tree, or written by credit
    advantages_BT: Tensor | None = None  # reward units; written only by credit
    returns_BT: Tensor | None = None  # reward units; written only by credit

    def replace(self, **fields: Any) -> Batch:
        return dataclasses.replace(self, **fields)

    def need(self, name: str) -> Tensor:
        """The optional field `name`, or an error that says who should have filled it."""
        value = getattr(self, name)
        if value is None:
            raise TropismError(f"batch.{name} is missing: {_FILLED_BY.get(name, 'collate')} fills it")
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
    """What the models say of a batch. Columns without a trained token hold 0."""

    logprobs_BT: Tensor | None = None  # nats
    entropy_BT: Tensor | None = None  # nats, without gradient
    values_BT: Tensor | None = None  # reward units
    scores_N: Tensor | None = None  # reward model's units, at each completion's last token
    scores_BT: Tensor | None = None  # reward model's units, of everything up to and including this token
    entropy_bonus_BT: Tensor | None = None  # the entropy again, with gradient, for an algorithm that rewards it
    divergence_BT: Tensor | None = None  # nats, between the policy's and the teacher's next-token distributions

    def need(self, name: str) -> Tensor:
        value = getattr(self, name)
        if value is None:
            raise TropismError(f"prediction.{name} is missing: name it in the algorithm's `predicts`")
        return value
